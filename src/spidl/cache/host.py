"""What every kept image depends on besides its inputs: the processor, and Spidl itself.

On the way of every `spidl run`: standard library only, well under a millisecond.
"""

from __future__ import annotations

import os

_CPUINFO = "/proc/cpuinfo"
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FOLDERS = ("", "cache", "elf", "link", "modules", "targets/exec")
"""What makes an image: neither the command line nor the tests' helpers do."""
_OF_THE_PROCESSOR = ("model name", "stepping", "microcode", "flags")
_PAGE = 4096
"""The kernel writes a processor at a time: the first one's lines are in the first read."""


def processor() -> str:
    """The model and the features of the first processor, as proc_cpuinfo(5) says them.

    Empty where there is no such file.  The image itself asks CPUID; this only makes two machines
    that share a home folder keep two images.
    """
    try:
        descriptor = os.open(_CPUINFO, os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(descriptor, _PAGE).decode(errors="replace")
        finally:
            os.close(descriptor)
    except OSError:
        return ""
    lines = text.partition("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.partition("\t")[0] in _OF_THE_PROCESSOR)


def own_files(package: str = _PACKAGE) -> str:
    """Name, size in bytes and mtime in nanoseconds of the files that Spidl makes images with."""
    folders = [os.path.join(package, folder) for folder in _FOLDERS]
    modules = os.path.join(package, "modules", "")
    found = []
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.name.endswith((".py", ".elf")):
                        status = entry.stat()
                        found.append(f"{entry.path} {status.st_size} {status.st_mtime_ns}")
                    elif entry.path.startswith(modules) and entry.name != "__pycache__":
                        folders.append(entry.path)  # not a folder: an OSError
        except OSError:
            continue
    return "\n".join(sorted(found))
