"""What one ELF file can ask of the kernel, as a value: `Summary`.

A summary speaks about its file alone.  What it reaches in other objects stands there as imports,
so that the summaries of a link can be put together: start with the class `always` of every object
and the program's `entry`, and for each import of a class go on at the class of its definition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from spidl.analyse.keys import Exports, Keys
from spidl.analyse.keys import Key as Key
from spidl.elf.tables import Bytes

VERSION = 5
"""The analyser's version: a summary of another one is made again."""
NUMBERS = 512
"""System call numbers are below this; x86-64 Linux has some 460."""

Masks = npt.NDArray[np.uint8]
"""A row of bits for each class, lowest bit first (``numpy.unpackbits(bitorder="little")``)."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a call tells an import that opens a library or looks up a symbol by name."""

    function: int
    """Index into `Summary.imports`: one of `spidl.analyse.numbers.TAKES_NAME`, such as dlsym."""
    name: str | None
    """The constant string; empty also for NULL (the program itself).  None where it is computed, or
    where the function's address is taken so that anybody may call it: it can be any name."""


@dataclass(frozen=True, slots=True)
class Class:
    """What all that follows from one function, inside its file, can do."""

    syscalls: frozenset[int]
    """Numbers of system calls."""
    imports: frozenset[int]
    """Indexes into `Summary.imports`."""
    wrapper_calls: frozenset[tuple[int, int]] = frozenset()
    """(index of an import, number): calls of a function that takes the number as its argument,
    such as libc's ``syscall``."""
    told: frozenset[int] = frozenset()
    """Indexes into `Summary.told`."""
    unknown: bool = False
    """A site whose number is not known is among what it reaches: it may make any call."""


@dataclass(frozen=True, slots=True)
class Site:
    """A place whose system call number could not be told; ``vaddr`` is link-time virtual."""

    vaddr: int
    function: str
    reason: str
    classes: tuple[int, ...] = ()
    """The classes that reach it."""


@dataclass(frozen=True, eq=False)
class Classes(Sequence[Class]):
    """The classes of a summary: values one by one, bit masks all at once."""

    syscalls: Masks
    """`NUMBERS` bits a class."""
    imports: Masks
    """A bit for each import, in whole bytes."""
    wrapper_calls: npt.NDArray[np.uint32]
    """Rows of (class, import, number), ascending."""
    told: npt.NDArray[np.uint32]
    """Rows of (class, index into `Summary.told`), ascending."""
    unknown: npt.NDArray[np.bool_]
    _made: dict[int, Class] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.syscalls)

    @overload
    def __getitem__(self, index: int) -> Class: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Class, ...]: ...
    def __getitem__(self, index: int | slice) -> Class | tuple[Class, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        at = range(len(self))[index]
        made = self._made.get(at)
        if made is None:
            rows = self.wrapper_calls[self.wrapper_calls[:, 0] == at]
            made = self._made[at] = Class(
                _members(self.syscalls[at]),
                _members(self.imports[at]),
                frozenset((i, n) for _, i, n in rows.tolist()),
                frozenset(self.told[self.told[:, 0] == at, 1].tolist()),
                bool(self.unknown[at]),
            )
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    @classmethod
    def of(cls, classes: Sequence[Class], imports: int) -> Classes:
        """Masks of classes that speak about so many imports."""
        if isinstance(classes, Classes):
            return classes
        calls = sorted((at, i, n) for at, c in enumerate(classes) for i, n in c.wrapper_calls)
        told = sorted((at, index) for at, c in enumerate(classes) for index in c.told)
        return cls(
            _masks([c.syscalls for c in classes], NUMBERS),
            _masks([c.imports for c in classes], imports),
            np.array(calls, dtype=np.uint32).reshape(-1, 3),
            np.array(told, dtype=np.uint32).reshape(-1, 2),
            np.array([c.unknown for c in classes], dtype=np.bool_),
        )


def _members(mask: Masks) -> frozenset[int]:
    return frozenset(np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist())


def _masks(sets: Sequence[frozenset[int]], bits: int) -> Masks:
    rows = np.zeros((len(sets), -(-bits // 8)), dtype=np.uint8)
    for row, members in zip(rows, sets, strict=True):
        for member in members:
            row[member >> 3] |= 1 << (member & 7)
    return rows


@dataclass(frozen=True, eq=False)
class ByAddress(Mapping[int, int]):
    """Virtual address to class, as two columns."""

    vaddrs: npt.NDArray[np.uint64]
    """Ascending."""
    classes: npt.NDArray[np.uint32]

    @cached_property
    def _dict(self) -> dict[int, int]:
        return dict(zip(self.vaddrs.tolist(), self.classes.tolist(), strict=True))

    def __getitem__(self, vaddr: int) -> int:
        return self._dict[vaddr]

    def __iter__(self) -> Iterator[int]:
        return iter(self._dict)

    def __len__(self) -> int:
        return len(self.vaddrs)

    @classmethod
    def of(cls, classes: Mapping[int, int]) -> ByAddress:
        if isinstance(classes, ByAddress):
            return classes
        vaddrs = sorted(classes)
        return cls(
            np.array(vaddrs, dtype=np.uint64),
            np.array([classes[vaddr] for vaddr in vaddrs], dtype=np.uint32),
        )


@dataclass(frozen=True)
class Summary:
    """The system calls that each function of a file can reach, and what it imports."""

    build_id: str
    """In hex; ``sha256:`` and the digest of the file where it has none."""
    soname: str
    """DT_SONAME; empty for a file without one."""
    needed: tuple[str, ...]
    """DT_NEEDED, in order."""
    imports: Sequence[Key]
    """Symbols that code or data refers to and that another object may define: undefined ones, and
    the file's own exports where it refers to them so that they can be interposed.  Kept summaries
    have `Keys`."""
    classes: Sequence[Class]
    """Each different set once.  Real summaries have `Classes`, with masks."""
    always: int
    """The class of what can run or be called whatever is bound: constructors, destructors, IFUNC
    resolvers, all functions that data points to."""
    entry: int | None
    """The class of e_entry, None for a file without one."""
    exports: Mapping[Key, int]
    """The class of each defined dynamic symbol; `always` for data.  Kept summaries have
    `Exports`."""
    addresses: Mapping[int, int]
    """The same by virtual address, and PLT entries that stand for a function of another object in
    programs with fixed addresses.  Real summaries have `ByAddress`."""
    wrappers: Mapping[Key, int] = field(default_factory=dict)
    """Exports that make the system call that argument 0 to 5 names.  A class that imports one
    has its numbers in ``wrapper_calls``, or is unknown."""
    told: tuple[Told, ...] = ()
    """What the calls of dlopen, dlsym and the like are told, each once.  A class that has such an
    import and tells it nothing has its address from elsewhere, and may tell it anything."""
    unknown: tuple[Site, ...] = ()
    flags: frozenset[str] = frozenset()
    """See `FLAGS`."""
    version: int = VERSION

    @cached_property
    def masks(self) -> Classes:
        """The classes as bit masks."""
        return Classes.of(self.classes, len(self.imports))

    @cached_property
    def by_address(self) -> ByAddress:
        """`addresses` as columns."""
        return ByAddress.of(self.addresses)

    @cached_property
    def imported(self) -> Keys:
        """`imports` with their hashes."""
        return Keys.of(self.imports)

    @cached_property
    def exported(self) -> Exports:
        """`exports` as columns."""
        return Exports.of(self.exports)

    def to_bytes(self) -> bytes:
        """Compact bytes of the summary."""
        from spidl.analyse.pack import pack

        return pack(self)

    @classmethod
    def from_bytes(cls, data: bytes | Bytes, name: str = "summary") -> Summary:
        """The summary that `to_bytes` wrote; ``name`` is what the message calls the bytes.

        Raises LinkError ``analyse/summary`` for any other bytes, and for another version's.
        """
        from spidl.analyse.pack import unpack

        return unpack(bytes(data), name)

    def to_json(self) -> dict[str, Any]:
        """The same, for programs: names of system calls and symbols instead of numbers."""
        from spidl.analyse.names import name_of

        def symbol(key: Key) -> str:
            return key[0] if key[1] is None else f"{key[0]}@{key[1]}"

        def value(member: Class) -> dict[str, Any]:
            return {
                "syscalls": [name_of(number) for number in sorted(member.syscalls)],
                "imports": [symbol(self.imports[at]) for at in sorted(member.imports)],
                "wrapper_calls": [
                    [symbol(self.imports[at]), name_of(number)]
                    for at, number in sorted(member.wrapper_calls)
                ],
                "told": [
                    [symbol(self.imports[self.told[at].function]), self.told[at].name]
                    for at in sorted(member.told)
                ],
                "unknown": member.unknown,
            }

        return {
            "version": self.version,
            "build_id": self.build_id,
            "soname": self.soname,
            "needed": list(self.needed),
            "always": self.always,
            "entry": self.entry,
            "classes": [value(member) for member in self.classes],
            "exports": {symbol(key): at for key, at in self.exports.items()},
            "addresses": {f"{vaddr:#x}": at for vaddr, at in self.addresses.items()},
            "wrappers": {symbol(key): at for key, at in self.wrappers.items()},
            "unknown": [
                {"vaddr": site.vaddr, "function": site.function, "reason": site.reason,
                 "classes": list(site.classes)}
                for site in self.unknown
            ],
            "flags": sorted(self.flags),
        }  # fmt: skip


FLAGS = {
    "int80": "asks the kernel through the 32-bit door, whose numbers are others",
    "no-frames": "has no .eh_frame_hdr: functions are guessed from symbols and references",
    "writable-code": "has a segment that is writable and executable",
}
"""What `Summary.flags` may say."""
