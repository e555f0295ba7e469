"""The address space of a link: what is mapped where, and every word that passes write.

One concrete model.  Writes are kept as batches with their provenance and applied to memory only
where somebody looks, so the run-time linker's own memory can serve as the base as well (the exec
target applies the same batches to what ld.so left, and compares).
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.diagnostics import LinkError, Place
from spidl.link.actions import Protection
from spidl.link.memory import U8, U64, Memory, zeros
from spidl.link.writes import CopyRun as CopyRun
from spidl.link.writes import Deferred as Deferred
from spidl.link.writes import Provenance as Provenance
from spidl.link.writes import Write as Write

PAGE = 4096
_LOW, _HIGH = 0x5555_0000_0000, 0x5640_0000_0000
"""Where links are placed: where the kernel puts PIE programs (ELF_ET_DYN_BASE), with as many random
bits.  Sanitizers, whose shadow memory lies at fixed addresses, and runtimes that reserve theirs
(ZGC, GHC) expect programs there; the heap (brk follows the last PT_LOAD) has room to grow."""
_END = 0x7000_0000_0000
"""Where the kernel's own mappings (stack, vDSO, mmap area) may begin."""
_SEALS = {
    "mappings": "load/sealed", "writes": "relocate/sealed", "permissions": "protect/sealed",
}  # fmt: skip
"""The error for what comes too late: the code has the phase that it belongs to."""


def _random_base() -> int:
    # Not `secrets`: it costs 5 ms to import, and 2**64 is so much larger that no page is favoured.
    return _LOW + int.from_bytes(os.urandom(8), "little") % ((_HIGH - _LOW) // PAGE) * PAGE


def page_down(address: int) -> int:
    """Round down to a page."""
    return address & -PAGE


def page_up(address: int) -> int:
    """Round up to a page."""
    return (address + PAGE - 1) & -PAGE


@dataclass(frozen=True, slots=True)
class Mapping:
    """Pages with one permission and one backing.

    ``start`` and ``length`` are page-aligned, in bytes.  With ``path`` the pages come from that
    file at ``offset``; without, from ``content``; ``filled`` bytes are backed, the rest is zero.
    """

    start: int
    length: int
    protection: Protection
    by: Provenance
    path: str | None = None
    offset: int = 0
    filled: int = 0
    content: U8 | None = None

    @property
    def end(self) -> int:
        return self.start + self.length

    def blocks(self) -> list[tuple[int, U8]]:
        """`initial`, in parts (address, bytes): only a page that is filled in part is new."""
        whole = page_down(0 if self.content is None else min(self.filled, len(self.content)))
        if self.content is None or not 0 < whole < self.length:
            return [(self.start, self.initial())]
        rest = Mapping(self.start + whole, self.length - whole, self.protection, self.by, None, 0,
                       self.filled - whole, self.content[whole:])  # fmt: skip
        return [(self.start, self.content[:whole]), (rest.start, rest.initial())]

    def initial(self) -> U8:
        """The bytes before any write; read-only where they are the file's own or zero."""
        if self.content is not None and len(self.content) == self.filled == self.length:
            return self.content
        if self.content is None:
            return zeros(self.length)
        memory = np.zeros(self.length, np.uint8)
        memory[: self.filled] = self.content[: self.filled]
        return memory


def _start(mapping: Mapping) -> int:
    return mapping.start


@dataclass(frozen=True, slots=True)
class Placement:
    """The load phase's result for one object: its bias and its mappings."""

    bias: int
    mappings: tuple[Mapping, ...]


@dataclass(frozen=True, slots=True)
class Protect:
    """Final permission of pages: page-aligned start and length in bytes."""

    start: int
    length: int
    protection: Protection


def _outside(by: Provenance, what: str, error: LookupError) -> LinkError:
    return LinkError(
        "relocate/outside",
        f"{by} {what} {error.args[0]:#x}, where nothing is mapped",
        place=Place(by.dso),
        help="the file is damaged: reinstall the package it belongs to",
    )


def _apply(memory: Memory, writes: Sequence[Write | CopyRun]) -> None:
    """Perform writes in order, words in batches.  Raises LookupError(address) outside."""
    for width, batch in groupby(writes, key=lambda w: w.width if isinstance(w, Write) else 0):
        if not width:
            for run in batch:
                assert isinstance(run, CopyRun)
                memory.write_bytes(run.address, run.content)
            continue
        words = [write for write in batch if isinstance(write, Write)]
        memory.write_words(
            np.concatenate([write.addresses for write in words]),
            np.concatenate([write.values for write in words]),
            width,
        )


class AddressSpace:
    """What one link puts into the process."""

    def __init__(self, base: int | None = None) -> None:
        self.base = base if base is not None else _random_base()
        """The lowest address chosen by this link; fresh for each link (it stands for ASLR)."""
        self.top = self.base
        self.mappings: list[Mapping] = []
        self._ordered: list[Mapping] = []
        """The same, in order of address."""
        self.protections: list[tuple[Protect, Provenance]] = []
        self.writes: list[Write | CopyRun] = []
        self.deferred: list[Deferred] = []
        self.sealed: set[str] = set()
        self._memory: Memory | None = None
        self._applied = 0

    def allocate(self, length: int, align: int = PAGE) -> int:
        """Reserve address space; gives a page-aligned start.  ``align`` is a power of two.

        Raises `LinkError` ``load/no-room`` where the space that links may use is at its end.
        """
        align = max(align, PAGE)
        start = (self.top + align - 1) & -align
        top = page_up(start + length)
        if top > _END:
            raise LinkError(
                "load/no-room",
                f"there is no room for {length:#x} bytes aligned to {align:#x}",
                help="the file is damaged: reinstall the package it belongs to",
            )
        self.top = top
        return start

    def _check(self, seal: str, by: Provenance, what: str) -> None:
        if seal in self.sealed:
            raise LinkError(
                _SEALS[seal],
                f"module `{by.module}` {what} in {by.phase}, after the {seal} were sealed",
                place=Place(by.dso),
                help="map in load, write before the end of post-relocate, protect in protect",
            )

    def map(self, mapping: Mapping) -> None:
        """Add a mapping.  Raises `LinkError` when sealed or when it overlaps another."""
        self._check("mappings", mapping.by, "maps memory")
        at = bisect_left(self._ordered, mapping.start, key=_start)
        for other in self._ordered[max(at - 1, 0) : at + 1]:
            if mapping.start < other.end and other.start < mapping.end:
                raise LinkError(
                    "load/overlap",
                    f"{mapping.by.dso} at {mapping.start:#x}-{mapping.end:#x} overlaps "
                    f"{other.by.dso} at {other.start:#x}-{other.end:#x}",
                    place=Place(mapping.by.dso),
                    help="two objects with fixed addresses cannot share a process",
                )
        self.mappings.append(mapping)
        self._ordered.insert(at, mapping)
        self._memory = None

    def write(
        self,
        addresses: U64,
        values: U64,
        by: Provenance,
        *,
        width: int = 8,
        table: str = "",
        source: npt.NDArray[np.int64] | None = None,
        owner: npt.NDArray[np.int64] | None = None,
        owners: list[str] | None = None,
    ) -> None:
        """Write words; addresses in bytes, values as unsigned 64-bit.

        Writes by modules that merely do what the system's linker would do carry no owner.
        """
        self._check("writes", by, "writes memory")
        if len(addresses):
            none = np.full(len(addresses), -1, np.int64)
            self.writes.append(
                Write(
                    addresses, values, width, by, table,
                    none if source is None else source,
                    none if owner is None else owner,
                    owners or [],
                )
            )  # fmt: skip

    def patch(self, address: int, content: bytes, by: Provenance) -> None:
        """Write bytes that the module owns: they may differ from what ld.so would write."""
        self._check("writes", by, "writes memory")
        self.writes.append(CopyRun(address, np.frombuffer(content, np.uint8), by, 0))

    def copy(self, address: int, origin: int, size: int, by: Provenance) -> None:
        """Copy bytes, as a COPY relocation does."""
        self._check("writes", by, "writes memory")
        try:
            content = self._read(origin, size, lambda memory: memory.read_bytes(origin, size))
        except LookupError as error:
            raise _outside(by, "copies from", error) from None
        self.writes.append(CopyRun(address, content, by, origin))

    def defer(self, addresses: U64, functions: U64, by: Provenance, reason: str) -> None:
        """Leave words to the running process."""
        self._check("writes", by, "writes memory")
        if len(addresses):
            self.deferred.append(Deferred(addresses, functions, by, reason))

    def protect(self, protect: Protect, by: Provenance) -> None:
        """Record a final permission."""
        self._check("permissions", by, "changes permissions")
        self.protections.append((protect, by))

    def seal(self, what: str) -> None:
        """From here on ``mappings``, ``writes`` or ``permissions`` are final."""
        self.sealed.add(what)

    def apply(self, memory: Memory, since: int = 0) -> None:
        """Perform the writes from number ``since`` on, in order."""
        try:
            _apply(memory, self.writes[since:])
        except LookupError:
            for write in self.writes[since:]:  # again, to tell whose it is
                try:
                    _apply(memory, [write])
                except LookupError as error:
                    raise _outside(write.by, "writes to", error) from None

    def read_words(self, addresses: U64, by: Provenance) -> U64:
        """The 8-byte words at addresses, every write so far included.

        Raises `LinkError` ``relocate/outside`` where nothing is mapped.
        """
        try:
            if not len(addresses):
                return addresses
            first = int(addresses.min())
            size = int(addresses.max()) - first + 8
            words: U64 = self._read(first, size, lambda memory: memory.read_words(addresses))
            return words
        except LookupError as error:
            raise _outside(by, "reads from", error) from None

    def _read(self, start: int, size: int, read: Callable[[Memory], U8 | U64]) -> Any:
        """What ``read`` finds in a range, every write so far included.

        Only the mappings in the range are put together; what they are not enough for goes through
        `memory`.  Raises LookupError as ``read``.
        """
        if self._memory is None:
            first = max(bisect_right(self._ordered, start, key=_start) - 1, 0)
            inside = self._ordered[first : bisect_left(self._ordered, start + size, key=_start)]
            memory = Memory(block for mapping in inside for block in mapping.blocks())
            low = min((m.start for m in inside), default=start)
            high = max((m.end for m in inside), default=start)
            some = [part for write in self.writes if (part := write.within(low, high)) is not None]
            with suppress(LookupError):
                _apply(memory, some)
                return read(memory)
        return read(self.memory)

    @property
    def memory(self) -> Memory:
        """The content of all mappings, with every write so far."""
        if self._memory is None:
            self._memory = Memory([(m.start, m.initial()) for m in self._ordered])
            self._applied = 0
        self.apply(self._memory, self._applied)
        self._applied = len(self.writes)
        return self._memory

    def at(self, address: int) -> Mapping | None:
        """The mapping that holds an address."""
        before = bisect_right(self._ordered, address, key=_start) - 1
        if before >= 0 and address < self._ordered[before].end:
            return self._ordered[before]
        return None

    def writers(self, address: int) -> Iterator[tuple[Write | CopyRun, int]]:
        """Every write that covers a byte, in order, with the row in its batch."""
        for write in self.writes:
            if isinstance(write, CopyRun):
                if write.address <= address < write.address + len(write.content):
                    yield write, address - write.address
            else:
                low = np.uint64(max(0, address - write.width + 1))
                near = (write.addresses >= low) & (write.addresses <= np.uint64(address))
                for row in np.flatnonzero(near):
                    yield write, int(row)
