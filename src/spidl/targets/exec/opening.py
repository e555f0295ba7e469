"""The gate for libraries that are opened at run time: every dlopen leads through boot.

In a process with glibc, whoever opens a library calls ``_rtld_global_ro._dl_open``: dlopen and
dlmopen, name services, converters, the unwinder (GLRO(dl_open) in sysdeps/generic/ldsodefs.h).  So
that word of the image leads to boot's `spidl_open` (boot/open.c), which knows the real function.

The structure's layout differs between builds.  The word is the one whose function begins with the
check of dlopen's mode, which is where ld.so has the text of that error (elf/dl-open.c); a second
sign must agree with it: in glibc 2.31 to 2.41 it lies two words behind that of _dl_mcount, an
exported function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spidl.diagnostics import LinkError, Place, Refusal
from spidl.elf import PF, SHN, R, name_hash
from spidl.link.actions import Action, Gate
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.memory import Memory
from spidl.link.runtime import RUNTIME
from spidl.targets.exec.boot import BootCode

_TABLE, _ERROR, _COUNTED = "_rtld_global_ro", "_dl_signal_error", "_dl_mcount"
_TEXT = b"invalid mode for dlopen()"
_BEHIND = 2
"""Words from that of _dl_mcount to that of _dl_open; _dl_lookup_symbol_x lies between."""
_REACH = 4096
"""Bytes of a function in which it refers to a text."""
_LEA = np.frombuffer(bytes(0x05 | register << 3 for register in range(8)), np.uint8)
"""ModRM bytes of ``lea text(%rip), register``."""


@dataclass(frozen=True, slots=True)
class Openers:
    """Where ld.so keeps the address of _dl_open, the function, and that of its errors; all are
    run-time addresses."""

    word: int
    real: int
    error: int


def through_gate(
    link: Link, memory: Memory, actions: Sequence[Action], boot: BootCode, boot_at: int
) -> list[Action]:
    """The actions with the gate's addresses filled in; the word in ``memory`` leads to boot.

    Raises Refusal ``exec/no-gate`` where the linker at hand is not known that well.
    """
    gates = [action for action in actions if isinstance(action, Gate)]
    if not gates:
        return list(actions)
    if len(gates) > 1:
        raise LinkError(
            "exec/bad-action", f"{len(gates)} gates for libraries that are opened",
            help="two modules bring one each: leave one of them out",
        )  # fmt: skip
    found = find_openers(link.facts[RUNTIME].linker, memory)
    one = np.array([found.word], np.uint64)
    memory.write_words(one, np.array([boot_at + boot.open], np.uint64))
    return [
        replace(action, real=found.real, error=found.error) if isinstance(action, Gate) else action
        for action in actions
    ]


def without_gate(actions: Sequence[Action]) -> list[Action]:
    """The actions of a program that no run-time linker is part of: nothing can be opened."""
    return [action for action in actions if not isinstance(action, Gate)]


def find_openers(linker: Dso, memory: Memory) -> Openers:
    """Look at the linker in adopted memory.  Raises Refusal ``exec/no-gate``."""
    tables = _defined(linker, _TABLE)
    if len(tables) != 1:
        raise _unknown(linker, f"it exports no {_TABLE}")
    symbol = linker.file.symbols[tables[0]]
    start = linker.bias + int(symbol["st_value"])
    words = np.arange(start, start + int(symbol["st_size"]) - 7, 8, dtype=np.uint64)
    values = memory.read_words(words)
    code = [load for load in linker.file.loads if load.flags & PF.X]
    inside = np.zeros(len(values), np.bool_)
    for load in code:
        low, high = linker.bias + load.vaddr, linker.bias + load.vaddr + load.filesz
        inside |= (values >= np.uint64(low)) & (values < np.uint64(high))
    functions = np.sort(values[inside])
    real = {
        int(functions[at])
        for reference in _references(linker, _TEXT)
        if (at := int(np.searchsorted(functions, np.uint64(reference), "right")) - 1) >= 0
        and reference - int(functions[at]) < _REACH
    }
    if len(real) != 1:
        raise _unknown(linker, f"{len(real)} functions in {_TABLE} say `{_TEXT.decode()}`")
    (function,) = real
    (rows,) = np.nonzero(values == np.uint64(function))
    counted = [linker.symbol_address(index) for index in _defined(linker, _COUNTED)]
    if len(rows) != 1 or int(rows[0]) < _BEHIND or int(values[rows[0] - _BEHIND]) not in counted:
        raise _unknown(linker, f"the word of _dl_open is not where that of {_COUNTED} lets expect")
    return Openers(int(words[rows[0]]), function, _error(linker, memory))


def _error(linker: Dso, memory: Memory) -> int:
    """_dl_signal_error as ld.so itself calls it: through its slot, which libc's may have taken."""
    hashed = np.uint64(name_hash(_ERROR.encode()))
    for table in (linker.file.jmprel, linker.file.rela):
        rows = table[np.isin(table["r_type"], (R.JUMP_SLOT, R.GLOB_DAT))]
        for row in rows[linker.file.name_hashes[rows["r_sym"]] == hashed]:
            slot = np.array([linker.bias + int(row["r_offset"])], np.uint64)
            return int(memory.read_words(slot)[0])
    own = _defined(linker, _ERROR)
    if len(own) != 1:
        raise _unknown(linker, f"it exports no {_ERROR}")
    return linker.symbol_address(own[0])


def _defined(linker: Dso, name: str) -> list[int]:
    """The symbols of ld.so with a name."""
    same = linker.file.name_hashes == np.uint64(name_hash(name.encode()))
    return np.flatnonzero(same & (linker.file.symbols["st_shndx"] != SHN.UNDEF)).tolist()


def _references(linker: Dso, text: bytes) -> list[int]:
    """Run-time addresses of the instructions that take the address of a constant string."""
    places = set()
    for load in linker.file.loads:
        content = linker.file.data[load.offset : load.offset + load.filesz].tobytes()
        place = content.find(text + b"\0")
        if place >= 0:
            places.add(load.vaddr + place)
    found = []
    for load in linker.file.loads:
        if not load.flags & PF.X:
            continue
        data = linker.file.data[load.offset : load.offset + load.filesz]
        at = np.flatnonzero((data[1:-5] == 0x8D) & np.isin(data[2:-4], _LEA))
        offsets = data[at[:, None] + np.arange(3, 7)].view("<i4").reshape(-1).astype(np.int64)
        targets = load.vaddr + at + 7 + offsets
        found += [linker.bias + load.vaddr + int(i) for i in at[np.isin(targets, list(places))]]
    return found


def _unknown(linker: Dso, why: str) -> Refusal:
    return Refusal(
        "exec/no-gate",
        f"{linker.name} does not show where it opens libraries at run time",
        place=Place(linker.path),
        notes=(why,),
        help="this build of glibc is not known, and what is opened cannot be authorised; report it",
    )
