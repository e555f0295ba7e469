"""The identity of a file: if it is unchanged, so is the content."""

from __future__ import annotations

import os

Identity = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, mtime and ctime in nanoseconds."""


def identity(path: str) -> Identity | None:
    """The identity of a file now; None when there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


_IMAGES = ("squashfs", "erofs", "iso9660", "udf", "cramfs", "romfs")
"""File systems without times of their own: all of an identity can be another image's too."""
_LOOP = 7
"""The major number of loop devices, which any file can be behind."""


def unsteady_devices(devices: set[int]) -> set[int]:
    """Those devices (st_dev) whose file system is an image that may be exchanged as a whole."""
    found = {device for device in devices if os.major(device) == _LOOP}
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                words = line.split()
                major, _, minor = words[2].partition(":")
                device = os.makedev(int(major), int(minor))
                if device in devices and words[words.index("-") + 1] in _IMAGES:
                    found.add(device)
    except (OSError, ValueError, IndexError):
        pass
    return found
