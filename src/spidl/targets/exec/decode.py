"""Action tables back to actions, under the rules by which boot accepts them (boot/table.c).

The encoder ends by decoding what it made, so what boot would refuse is an error at link time.
"""

from __future__ import annotations

from dataclasses import dataclass

from spidl.diagnostics import LinkError, Place
from spidl.link.actions import (
    Action,
    Anchor,
    Call,
    CallStore,
    Check,
    CheckAbsent,
    CheckAuxv,
    CheckCpuid,
    CheckEnvironment,
    CheckFile,
    CheckStackLimit,
    CheckVdso,
    FileIdentity,
    Filter,
    Gate,
    Identity,
    Jump,
    Kind,
    MapFile,
    OpenedFile,
    Opening,
    Origin,
    Patch,
    Protect,
    Protection,
    Report,
    Segment,
    SetThread,
    TableFlag,
    ThreadCall,
    Word,
)
from spidl.targets.exec.layout import (
    ACTION,
    ADDRESS_END,
    CPUID,
    HEADER,
    IDENTITY,
    MAGIC,
    OPENED,
    OPENING,
    ORIGIN,
    PAGE,
    RANGES,
    SEGMENT,
    SPAN,
    VERSION,
    WORD,
    Record,
)

NO_FLAGS = TableFlag(0)

Span = tuple[int, int]
"""The (start, end) of virtual addresses, whole pages."""


@dataclass(frozen=True, slots=True)
class Front:
    """Who makes a new link where a kept image does not fit: the launcher.

    ``entry`` is what it reads in SPIDL_STALE: ``P`` under a policy or ``-``, the entry's folder, a
    newline, the program.
    """

    path: bytes
    entry: bytes


@dataclass(frozen=True, slots=True)
class Table:
    """A whole action table.

    ``program`` is the absolute path of the original program, for the plain way.  Actions may map,
    write and protect addresses in ``spans`` only.
    """

    actions: tuple[Action, ...]
    program: bytes
    spans: tuple[Span, ...] = ()
    flags: TableFlag = NO_FLAGS
    front: Front | None = None


STALE = b"SPIDL_STALE="
_FILTER_INSTRUCTIONS = 4096
"""BPF_MAXINSNS."""
_FILTER_FLAGS = 7
"""SECCOMP_FILTER_FLAG_TSYNC, _LOG and _SPEC_ALLOW."""
_WRITING = (1, 20)
"""write and writev."""
_ARCH_SET = (0x1001, 0x1002)
"""ARCH_SET_GS and ARCH_SET_FS."""


class _Fault(Exception):
    """A rule of boot/table.c that the table breaks."""


def _require(condition: object, fault: str) -> None:
    if not condition:
        raise _Fault(fault)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.spans: tuple[Span, ...] = ()

    def bytes_at(self, offset: int, count: int, size: int, align: int) -> bytes:
        _require(
            offset % align == 0 and offset + count * size <= len(self.data),
            "array outside the table",
        )
        return self.data[offset : offset + count * size]

    def rows(
        self, record: Record, offset: int, count: int, align: int = 8
    ) -> list[tuple[int, ...]]:
        return list(record.packer.iter_unpack(self.bytes_at(offset, count, record.size, align)))

    def text(self, offset: int) -> bytes:
        _require(offset < len(self.data), "string outside the table")
        return self.data[offset : self.data.index(b"\0", offset)]

    def identity(self, offset: int) -> FileIdentity:
        ((device, inode, size, *times),) = self.rows(IDENTITY, offset, 1)
        return FileIdentity(device, inode, size, (times[0], times[1]), (times[2], times[3]))

    def within(self, address: int, length: int) -> None:
        _require(
            any(start <= address and address + length <= end for start, end in self.spans),
            f"address {address:#x} outside the spans",
        )

    def pages_within(self, address: int, length: int) -> None:
        _require(address % PAGE == 0 and length > 0, f"address {address:#x} or length not of pages")
        self.within(address, length)  # spans are whole pages: no need to round up

    def function(self, address: int) -> int:
        _require(PAGE <= address < ADDRESS_END, f"bad function address {address:#x}")
        return address

    def check(self, row: tuple[int, ...]) -> Action:
        _, what, a, b, _, _, array, count, path, identity = row
        match what:
            case Check.ENVIRONMENT:
                raw = self.bytes_at(array, count, 4, 4)
                offsets = (int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4))
                return CheckEnvironment(tuple(self.text(offset) for offset in offsets))
            case Check.AUXV:
                return CheckAuxv(a, b)
            case Check.CPUID:
                _require(count == 1, "array outside the table")
                ((leaf, subleaf, *regs),) = self.rows(CPUID, array, 1, 4)
                m0, m1, m2, m3, v0, v1, v2, v3 = regs
                return CheckCpuid(leaf, subleaf, (m0, m1, m2, m3), (v0, v1, v2, v3))
            case Check.VDSO:
                _require(a + count <= PAGE, "bytes outside the vDSO's first page")
                return CheckVdso(a, self.bytes_at(array, count, 1, 1))
            case Check.STACK_LIMIT:
                return CheckStackLimit(a, b)
            case Check.FILE:
                return CheckFile(self.text(path), self.identity(identity))
            case Check.ABSENT:
                return CheckAbsent(self.text(path))
        raise _Fault(f"unknown check {what}")

    def map_file(self, row: tuple[int, ...]) -> Action:
        *_, array, count, path, identity = row
        segments = []
        for address, length, offset, protection, _ in self.rows(SEGMENT, array, count):
            self.pages_within(address, length)
            _require(
                offset % PAGE == 0 and offset < (1 << 63) - ADDRESS_END and protection <= 7,
                "bad segment",
            )
            segments.append(Segment(address, length, offset, Protection(protection)))
        return MapFile(self.text(path), self.identity(identity), tuple(segments))

    def patch(self, row: tuple[int, ...]) -> Action:
        *_, array, count, _, _ = row
        words = []
        for address, addend, anchor, width in self.rows(WORD, array, count):
            _require(anchor in set(Anchor), f"unknown anchor {anchor}")
            _require(width in (4, 8), f"bad width {width}")
            self.within(address, width)
            words.append(Word(address, Anchor(anchor), _signed(addend), width))
        return Patch(tuple(words))

    def set_thread(self, row: tuple[int, ...]) -> Action:
        _, what, a, b, c, d, *_ = row
        _require(what in set(ThreadCall), f"unknown thread call {what}")
        _require(what != ThreadCall.ARCH_PRCTL or a in _ARCH_SET, "bad arch_prctl")
        return SetThread(ThreadCall(what), (a, b, c, d))

    def report(self, row: tuple[int, ...]) -> Action:
        _, call, names, name_count, _, _, array, count, _, _ = row
        _require(call in (0, *_WRITING), "bad report")
        origins = tuple(
            Origin(start, end, self.text(name))
            for start, end, name, _ in self.rows(ORIGIN, array, count)
        )
        raw = self.bytes_at(names, name_count, 4, 4)
        texts = (self.text(int.from_bytes(raw[i : i + 4], "little")) for i in range(0, len(raw), 4))
        return Report(origins, tuple(texts), call)

    def numbers(self, offset: int, count: int) -> list[int]:
        raw = self.bytes_at(offset, count, 4, 4)
        return [int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)]

    def gate(self, row: tuple[int, ...]) -> Action:
        _, _, real, error, origins, origin_count, array, count, _, _ = row
        found = tuple(
            Origin(start, end, self.text(name))
            for start, end, name, _ in self.rows(ORIGIN, origins, origin_count)
        )
        openings = tuple(self.opening(*opening) for opening in self.rows(OPENING, array, count))
        return Gate(found, openings, self.function(real), self.function(error))

    def opening(
        self, names: int, name_count: int, files: int, file_count: int, openers: int,
        opener_count: int,
    ) -> Opening:  # fmt: skip
        rows = self.rows(OPENED, files, file_count)
        _require(rows and rows[0][1], "array outside the table")
        return Opening(
            tuple(self.text(name) for name in self.numbers(names, name_count)),
            tuple(
                OpenedFile(
                    self.text(path), self.identity(identity) if identity else None, linked != 0
                )
                for path, identity, linked, _ in rows
            ),
            tuple(self.numbers(openers, opener_count)),
        )

    def action(self, row: tuple[int, ...]) -> Action:
        kind, what, a, b, c, d, array, count, path, _ = row
        match kind:
            case Kind.CHECK:
                return self.check(row)
            case Kind.MAP_FILE:
                return self.map_file(row)
            case Kind.PATCH:
                return self.patch(row)
            case Kind.CALL_STORE:
                self.within(b, 8)
                return CallStore(self.function(a), b)
            case Kind.SET_THREAD:
                return self.set_thread(row)
            case Kind.PROTECT:
                self.pages_within(a, b)
                _require(what <= 7, "bad protection")
                return Protect(a, b, Protection(what))
            case Kind.FILTER:
                _require(0 < count <= _FILTER_INSTRUCTIONS and a <= _FILTER_FLAGS, "bad filter")
                return Filter(self.bytes_at(array, count, 8, 8), a, self.function(b) if b else 0)
            case Kind.REPORT:
                return self.report(row)
            case Kind.GATE:
                return self.gate(row)
            case Kind.CALL:
                return Call(self.function(a))
            case Kind.IDENTITY:
                _require(count == 1, "array outside the table")
                ((c0, c1, d0, d1),) = self.rows(RANGES, array, 1)
                return Identity(a, b, c, d, self.text(path), (c0, c1), (d0, d1))
            case Kind.JUMP:
                return Jump(self.function(a), b, c)
        raise _Fault(f"unknown action {kind}")

    def table(self) -> Table:
        _require(len(self.data) >= HEADER.size, "bad table size")
        (
            magic, size, version, flags, program, actions, action_count, spans, span_count,
            front, stale, _,
        ) = HEADER.packer.unpack_from(self.data)  # fmt: skip
        _require(magic == MAGIC, "no action table")
        _require(version == VERSION, "action table of another version")
        _require(HEADER.size <= size <= min(len(self.data), (1 << 32) - 1), "bad table size")
        self.data = self.data[:size]
        _require(self.data[-1] == 0, "unterminated table")
        path = self.text(program)
        _require(path, "bad program path")
        _require(flags in (0, TableFlag.POLICY), "unknown flags")
        for start, end in self.rows(SPAN, spans, span_count):
            _require(
                start % PAGE == 0 and end % PAGE == 0 and PAGE <= start < end <= ADDRESS_END,
                f"bad span {start:#x} to {end:#x}",
            )
            self.spans += ((start, end),)
        rows = self.rows(ACTION, actions, action_count)
        jumps = [i for i, row in enumerate(rows) if row[0] == Kind.JUMP]
        _require(jumps == [len(rows) - 1], "JUMP must be the last action")
        found: list[Action] = []
        for index, row in enumerate(rows):
            try:
                found.append(self.action(row))
            except _Fault as fault:
                raise _Fault(f"action {index}: {fault}") from None
        entry = self.text(stale)
        asked = Front(self.text(front), entry.removeprefix(STALE)) if front else None
        return Table(tuple(found), path, self.spans, TableFlag(flags), asked)


def decode(data: bytes, file: str | None = None) -> Table:
    """The table at the start of ``data``; ``file`` names the image for messages.

    Addends come back signed, RANDOM0's and RANDOM1's masks too.  Raises `LinkError`
    ``exec/bad-table`` for everything that boot refuses; only boot itself can see that a span
    overlaps the boot code.
    """
    try:
        return _Decoder(data).table()
    except _Fault as fault:
        raise LinkError(
            "exec/bad-table",
            f"malformed action table: {fault}",
            place=None if file is None else Place(file, "action table"),
        ) from None
