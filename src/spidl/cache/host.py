"""Spidl's own files: a kept link is of the Spidl that made it."""

from __future__ import annotations

import os
from contextlib import suppress

from spidl.files import write_whole

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FOLDERS = ("", "cache", "elf", "link", "modules", "targets/exec")
"""What makes an image: neither the command line nor the tests' helpers do."""
_ALWAYS = ("__init__.py", "targets/exec/boot.elf")
"""An installer writes these anew with every version."""
_STAMP = "bin/stamp"


def own_files(package: str = _PACKAGE) -> str:
    """Name, size in bytes and mtime in nanoseconds of the files that Spidl makes images with."""
    found = []
    for path in _makers(package):
        status = os.stat(path)
        found.append(f"{path} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(found)


def own_inputs(package: str = _PACKAGE) -> list[str]:
    """The files that tell, when they change, that this is another Spidl.

    Few, for each costs a microsecond at every start.  In a source tree, where files are edited one
    by one, a stamp stands for all of them, which Spidl's Python part brings up to date.
    """
    root = os.path.dirname(os.path.dirname(package))
    if not os.path.exists(os.path.join(root, "pyproject.toml")):
        return [os.path.join(package, name) for name in _ALWAYS]
    stamp = os.path.join(package, _STAMP)
    return [stamp] if _renewed(stamp, own_files(package)) else _makers(package)


def _renewed(stamp: str, text: str) -> bool:
    """Whether the stamp says this, from now on at least; not in a tree that is not ours."""
    content = os.fsencode(text)
    with suppress(OSError), open(stamp, "rb") as file:
        if file.read() == content:
            return True
    try:
        write_whole(stamp, content, 0o644)
    except OSError:
        return False
    return True


def _makers(package: str) -> list[str]:
    folders = [os.path.join(package, folder) for folder in _FOLDERS]
    modules = os.path.join(package, "modules", "")
    found = []
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.endswith((".py", ".elf")):
                        found.append(entry.path)
                    elif entry.path.startswith(modules) and entry.name != "__pycache__":
                        folders.append(entry.path)  # not a folder: an OSError
        except OSError:
            continue
    return sorted(found)
