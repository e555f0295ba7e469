"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os


def write_whole(path: str, content: bytes | bytearray, mode: int) -> None:
    """Put ``content`` at ``path`` with these permissions, in the place of a file that was there.

    Raises OSError, and leaves what was there as it was.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(21, "is a folder")
    if os.path.exists(path) and not os.path.isfile(path):
        # Replacing /dev/null would break the machine.
        raise OSError(22, "not a regular file")
    folder = os.path.dirname(os.path.abspath(path))
    temporary = os.path.join(folder, f".spidl-{os.urandom(8).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            view = memoryview(content)
            while len(view):
                view = view[os.write(descriptor, view) :]
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
