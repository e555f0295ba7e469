"""Making /proc/self/exe name the program and not its image.

The kernel's link cannot be changed while the image is mapped.  So GOT slots go through a thunk to
one of boot's shims, which puts the program's path in its place (boot/shims.S): those of functions
that read a link, and in objects that mention the path those of all functions that take one.  Raw
system calls, /proc/PID/exe and objects that are opened later are not covered.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import numpy as np

from spidl.diagnostics import Place, Refusal
from spidl.elf import PF, SHN, R, name_hash
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.memory import I64, U64, Memory, among
from spidl.targets.exec.boot import BootCode
from spidl.targets.exec.entries import jump, redirects

_NAME = re.compile(rb"/proc/self/exe")
"""As a pattern, since those search any buffer without copying it."""
_LINK_READERS = ("readlink", "readlinkat", "__readlink_chk", "__readlinkat_chk", "realpath",
                 "__realpath_chk", "canonicalize_file_name")  # fmt: skip
"""Seldom called, and asked about any path that a user names (os.readlink)."""
_STARTERS = ("execl", "execle", "execlp", "execv", "execve", "execvp", "execvpe", "fexecve",
             "posix_spawn", "posix_spawnp")  # fmt: skip
"""Callers that start /proc/self/exe may start the image."""
_SLOTS = (R.JUMP_SLOT, R.GLOB_DAT, R.R64)


@dataclass(frozen=True, slots=True)
class Answers:
    """The path and the thunks, and new code for entries of functions, by run-time address."""

    code: bytes
    entries: tuple[tuple[int, bytes], ...]


def refuse_own_way(link: Link, boot: BootCode) -> None:
    """Refusal ``exec/own-path`` for a program that mentions the file but asks no libc about it."""
    root = link.root
    names = {name_hash(name.encode()): name for name in (*boot.shims, *_STARTERS)}
    if len(_imported(root, names)) or not _mentions(root):
        return
    raise Refusal(
        "exec/own-path",
        f"{root.name} asks the kernel itself for /proc/self/exe, which is the image",
        place=Place(root.path),
        notes=("it has the name, and imports no function that takes a path",),
        help="the program starts the plain way, so that it finds its own file",
    )


def answer_for_program(
    link: Link, memory: Memory, at: int, boot: BootCode, boot_at: int
) -> Answers:
    """Redirect the slots in ``memory``; the answers' code is to be mapped at ``at``."""
    path = os.path.realpath(link.root.path).encode(errors="surrogateescape") + b"\0"
    code = bytearray(path.ljust((len(path) + 15) & -16, b"\0"))
    thunks: dict[tuple[str, int], int] = {}
    names = {name_hash(name.encode()): name for name in boot.shims}
    readers = {key: name for key, name in names.items() if name in _LINK_READERS}
    for dso in link.objects:
        imported = _imported(dso, names)
        if not len(imported):
            continue
        if not _mentions(dso):
            imported = _imported(dso, readers)
        for name, addresses in _slots(dso, imported, names):
            for address, real in zip(addresses, memory.read_words(addresses), strict=True):
                if not real:
                    continue  # weak, and nobody has it
                key = (name, int(real))
                if key not in thunks:
                    thunks[key] = at + len(code)
                    code += _thunk(int(real), at, boot_at + boot.shims[name], at + len(code))
                one = np.array([address], np.uint64)
                memory.write_words(one, np.array([thunks[key]], np.uint64))
    entries = []
    for redirect in redirects(link, boot_at):
        rest = at + len(code)
        code += redirect.rest(rest)
        entries.append((redirect.address, redirect.jump(at + len(code))))
        code += _thunk(rest, at, boot_at + boot.shims[redirect.name], at + len(code))
    return Answers(bytes(code) if thunks or entries else b"", tuple(entries))


def _mentions(dso: Dso) -> bool:
    """Whether an object's constant data has the string."""
    constant = [load for load in dso.file.loads if not load.flags & PF.W]
    # Linkers of today put strings into segments of their own, older ones beside the code.
    strings = [load for load in constant if not load.flags & PF.X] or constant
    return any(
        _NAME.search(dso.file.data[load.offset : load.offset + load.filesz].data)
        for load in strings
    )


def _imported(dso: Dso, names: dict[int, str]) -> I64:
    """The undefined symbols that are functions with a shim."""
    undefined = np.flatnonzero(dso.file.symbols["st_shndx"] == SHN.UNDEF)
    wanted = np.array(sorted(names), np.uint64)
    return undefined[among(dso.file.name_hashes[undefined], wanted)]


def _slots(dso: Dso, symbols: I64, names: dict[int, str]) -> list[tuple[str, U64]]:
    """(function, slot addresses) for each of the symbols."""
    found = []
    for symbol in symbols:
        name = names[int(dso.file.name_hashes[symbol])]
        for table in (dso.file.rela, dso.file.jmprel):
            rows = (table["r_sym"] == symbol) & np.isin(table["r_type"], _SLOTS)
            if rows.any():
                addresses = table["r_offset"][rows].astype(np.uint64) + np.uint64(dso.bias)
                found.append((name, addresses))
    return found


def _thunk(real: int, path: int, shim: int, here: int) -> bytes:
    """``mov r10, real; mov r11, path; jmp shim``."""
    loads = b"\x49\xba" + real.to_bytes(8, "little") + b"\x49\xbb" + path.to_bytes(8, "little")
    return loads + jump(here + len(loads), shim)
