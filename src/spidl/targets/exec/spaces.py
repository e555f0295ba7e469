"""Namespaces of ld.so in an image: the code that stays in the process for them (boot/spaces.c).

It opens libraries inside of a namespace's root, and puts the lists of maps in order where the
program is entered and where it ends.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from spidl.diagnostics import LinkError, Place
from spidl.elf import DT, ElfFile
from spidl.link.actions import Action, Jump
from spidl.link.memory import Memory
from spidl.targets.exec.area import Area
from spidl.targets.exec.boot import symbols_of
from spidl.targets.exec.maps import Fields, Words

CODE = os.path.join(os.path.dirname(__file__), "spaces.elf")
_OPEN, _ENTRY = 0, 16
"""Offsets in struct spaces (boot/spaces.h)."""


@dataclass(frozen=True, slots=True)
class Space:
    """One namespace of ld.so's: the address of its lists, its number and root, and what it opens
    that comes from the program's side, by name."""

    lists: int
    number: int
    root: str
    lent: Mapping[str, str]


@dataclass(slots=True)
class Spaces:
    """What the code is to know, and where it is once it has been `placed`."""

    base: int
    """The address of the program's own lists."""
    lock: int
    """The address of _dl_load_lock."""
    fields: Fields
    opener: int | None
    """The address of the word that leads to _dl_open; None where nobody opens inside."""
    spaces: list[Space] = field(default_factory=list)
    at_entry: list[tuple[int, int]] = field(default_factory=list)
    """Words, (address, value), to write where the program is entered."""
    at_end: list[tuple[int, int]] = field(default_factory=list)
    """Likewise where it ends, before destructors."""
    table: int = 0
    code: int = 0

    def place(self, code: Area, data: Area) -> None:
        """Give the code and its table their places."""
        content, symbols = _load()
        records = b"".join(
            struct.pack(
                "<QqQQQ",
                s.lists,
                s.number,
                _text(data, s.root),
                _pairs(data, [(_text(data, n), _text(data, p)) for n, p in s.lent.items()]),
                len(s.lent),
            )
            for s in self.spaces
        )
        at_entry, at_end = _pairs(data, self.at_entry), _pairs(data, self.at_end)
        info = self.fields.info
        self.table = data.add(
            struct.pack(
                "<17Q", 0, 0, 0, self.base, self.lock, self.fields.start, self.fields.start + 8,
                self.fields.initfini, info[int(DT.STRTAB)], info.get(int(DT.SONAME), 0),
                info.get(int(DT.RPATH), 0), info.get(int(DT.RUNPATH), 0), at_entry,
                len(self.at_entry), at_end, len(self.at_end), len(self.spaces),
            )
            + records
        )  # fmt: skip
        pointer = symbols["spaces_table"]
        whole = content[:pointer] + struct.pack("<Q", self.table) + content[pointer + 8 :]
        self.code = code.add(whole)

    def enter(self, actions: Sequence[Action], memory: Memory, data: Area) -> list[Action]:
        """Lead dlopen and the program's entry through the code."""
        words, (_, symbols) = Words(memory), _load()
        if self.opener is not None:
            real = words.get(self.opener)
            assert real is not None, "it was found there"
            _put(data, self.table + _OPEN, real)
            words.put(self.opener, self.code + symbols["spaces_open"])
        entered: list[Action] = []
        for action in actions:
            if isinstance(action, Jump):
                _put(data, self.table + _ENTRY, action.rax)
                action = replace(action, rax=self.code + symbols["spaces_enter"])
            entered.append(action)
        return entered


def _text(data: Area, text: str) -> int:
    return data.add(os.fsencode(text) + b"\0")


def _pairs(data: Area, pairs: Sequence[tuple[int, int]]) -> int:
    return data.add(b"".join(struct.pack("<QQ", *pair) for pair in pairs))


def _put(data: Area, address: int, value: int) -> None:
    struct.pack_into("<Q", data.content, address - data.start, value)


@cache
def _load() -> tuple[bytes, dict[str, int]]:
    """The code and its symbols.  Raises `LinkError` ``exec/no-boot``."""
    try:
        file = ElfFile.open(CODE)
    except LinkError as error:
        raise LinkError(
            "exec/no-boot",
            "the code of images with namespaces is missing",
            place=Place(CODE),
            notes=(error.diagnostic.message,),
            help="install spidl with pip, or run `make -C boot` in a source tree; both need gcc",
        ) from None
    segment = file.loads[0]
    content = file.data[segment.offset : segment.offset + segment.filesz].tobytes()
    return content, symbols_of(file.data.tobytes())
