"""What `spidl.analyse.known` has of a libc, from the symbols of its separate debug file.

    python -m tests.analyse.debug_symbols FILE

prints entries for `OBJECTS` and `AFTER`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from spidl.elf import ElfFile
from tests.needs import missing, tool

_COMPARED = "__libc_IO_vtables"
"""glibc only compares addresses with the bounds of this section (libioP.h: IO_validate_vtable)."""
_HOSTS = (
    "getaddrinfo gethostbyaddr_r gethostbyname2_r gethostbyname_r gethostent_r sethostent "
    "endhostent getnetbyaddr_r getnetbyname_r getnetent_r setnetent endnetent "
    "__nss_disable_nscd"
)
_DNS = (
    "getcanonname_r gethostbyaddr2_r gethostbyaddr_r gethostbyname2_r gethostbyname3_r "
    "gethostbyname4_r gethostbyname_r getnetbyaddr_r getnetbyname_r"
)
_RULES = (
    (
        "__pthread_tpp_change_priority __init_sched_fifo_prio __pthread_current_priority",
        "pthread_mutexattr_setprotocol pthread_mutexattr_setprioceiling "
        "pthread_mutexattr_getprioceiling pthread_mutex_setprioceiling",
    ),
    ("__rpc_thread_destroy", "__rpc_thread_variables"),
    (" ".join(f"_nss_dns_{name}" for name in _DNS.split()), _HOSTS),
)
"""Functions of glibc 2.36 that do nothing before one of others has run."""


def debug_file(file: ElfFile) -> Path:
    """Where Debian's -dbg packages put it."""
    name = file.build_id.hex() if file.build_id else ""
    path = Path(f"/usr/lib/debug/.build-id/{name[:2]}/{name[2:]}.debug")
    if not path.is_file():
        missing(f"{path} is not there: apt-get install libc6-dbg")
    return path


def objects_of(path: str) -> str:
    """``start+size`` of each object, in hexadecimal, as `OBJECTS` has them."""
    sections = _sections(path)
    ranges = [(start, end) for name, start, end in sections if name == ".bss"]
    ranges += [(start, end) for name, start, end in sections
               if re.fullmatch(r"\w+", name) and name != _COMPARED]  # fmt: skip
    places = [(start, end) for name, start, end in sections
              if name.startswith(".data") or name == _COMPARED]  # fmt: skip
    symbols = _output("nm", "-S", str(debug_file(ElfFile.open(path))))
    for line in symbols.splitlines():
        words = line.split()
        if len(words) == 4:
            start, size = int(words[0], 16), int(words[1], 16)
            if size and any(first <= start < end for first, end in places):
                ranges.append((start, start + size))
    joined: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if joined and start < joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return " ".join(f"{start:x}+{end - start:x}" for start, end in joined)


def rules_of(path: str) -> list[list[str]]:
    """The words of each rule of `AFTER`."""
    starts = {}
    for line in _output("nm", str(debug_file(ElfFile.open(path)))).splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in "tTW":
            starts.setdefault(words[2].partition("@")[0], f"{int(words[0], 16):x}")
    return [
        [*(starts[name] for name in later.split()), "<", *(starts[name] for name in first.split())]
        for later, first in _RULES
    ]


def _output(program: str, *arguments: str) -> str:
    command = [tool(program, "binutils"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _sections(path: str) -> list[tuple[str, int, int]]:
    """Name, start and end of the sections that are written to, but for thread-local ones."""
    found = []
    for line in _output("readelf", "-SW", path).splitlines():
        match = re.match(
            r"\s*\[\s*\d+\]\s+(\S+)\s+\S+\s+(\w+)\s+\w+\s+(\w+)\s+\w+\s+(WAR?)\s", line
        )
        if match and int(match[3], 16):
            start = int(match[2], 16)
            found.append((match[1], start, start + int(match[3], 16)))
    return found


def main() -> None:
    """Print an entry for each file."""
    for path in sys.argv[1:]:
        build_id = ElfFile.open(path).build_id
        rows = textwrap.wrap(objects_of(path), 92)
        print(f'    # {path}\n    "{build_id.hex() if build_id else ""}": """')
        print("\n".join(f"        {row}" for row in rows) + '\n    """,')
        print("\n".join(f"        {' '.join(rule)};" for rule in rules_of(path)))


if __name__ == "__main__":
    main()
