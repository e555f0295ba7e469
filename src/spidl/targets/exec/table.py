"""Action tables: a sequence of actions to the bytes that boot reads, and back.

The layout of the records is in ``layout.py``.  Behind the header come the spans, the actions,
their arrays and at last the strings; every offset counts from the header.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import error

from spidl.diagnostics import LinkError
from spidl.link.actions import (
    Action,
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
    Patch,
    Protect,
    Report,
    SetThread,
    TableFlag,
)
from spidl.targets.exec.decode import NO_FLAGS, STALE, Front, Span, Table, decode
from spidl.targets.exec.layout import (
    ACTION,
    CPUID,
    HEADER,
    IDENTITY,
    MAGIC,
    OPENED,
    OPENING,
    ORIGIN,
    RANGES,
    SEGMENT,
    SPAN,
    VERSION,
    WORD,
    Record,
)

__all__ = ["Front", "Span", "Table", "decode", "encode"]

_MASK = (1 << 64) - 1


class _Encoder:
    """Lays out arrays and strings behind the action records; equal ones are stored once."""

    def __init__(self, arrays_at: int) -> None:
        self.at = arrays_at
        self.chunks: list[bytes] = []
        self.known: dict[bytes, int] = {}

    def array(self, content: bytes) -> int:
        """The offset of ``content``, aligned to 8 bytes."""
        found = self.known.get(content)
        if found is None:
            found = self.known[content] = self.at
            padded = content + bytes(-len(content) % 8)
            self.chunks.append(padded)
            self.at += len(padded)
        return found

    def text(self, text: bytes) -> int:
        if b"\0" in text:
            raise LinkError("exec/bad-action", f"a NUL in the string {text!r}")
        return self.array(text + b"\0")

    def identity(self, file: FileIdentity) -> int:
        return self.array(
            IDENTITY.packer.pack(file.device, file.inode, file.size, *file.mtime, *file.ctime)
        )

    def records(self, record: Record, rows: Iterable[tuple[int, ...]]) -> tuple[int, int]:
        """The (offset, count) of an array of records."""
        packed = [record.packer.pack(*row) for row in rows]
        return self.array(b"".join(packed)), len(packed)

    def numbers(self, numbers: Iterable[int]) -> tuple[int, int]:
        """The (offset, count) of an array of 32-bit numbers."""
        packed = [number.to_bytes(4, "little") for number in numbers]
        return self.array(b"".join(packed)), len(packed)

    def gate(self, gate: Gate) -> bytes:
        rows = []
        for opening in gate.openings:
            names = self.numbers([self.text(name) for name in opening.names])
            files = self.records(OPENED, [
                (self.text(f.path), self.identity(f.identity) if f.identity else 0, f.linked, 0)
                for f in opening.files
            ])  # fmt: skip
            rows.append((*names, *files, *self.numbers(opening.openers)))
        array, count = self.records(OPENING, rows)
        origins = self.records(
            ORIGIN, [(o.start, o.end, self.text(o.name), 0) for o in gate.origins]
        )
        return _record(Kind.GATE, 0, (gate.real, gate.error, *origins), array=array, count=count)

    def action(self, action: Action) -> bytes:
        match action:
            case CheckEnvironment(variables):
                offsets = b"".join(self.text(v).to_bytes(4, "little") for v in variables)
                return _check(Check.ENVIRONMENT, array=self.array(offsets), count=len(variables))
            case CheckAuxv(type_, value):
                return _check(Check.AUXV, (type_, value))
            case CheckCpuid(leaf, subleaf, masks, values):
                array, count = self.records(CPUID, [(leaf, subleaf, *masks, *values)])
                return _check(Check.CPUID, array=array, count=count)
            case CheckVdso(offset, content):
                return _check(Check.VDSO, (offset,), array=self.array(content), count=len(content))
            case CheckStackLimit(minimum, maximum):
                return _check(Check.STACK_LIMIT, (minimum, maximum))
            case CheckFile(path, identity):
                return _check(Check.FILE, path=self.text(path), identity=self.identity(identity))
            case CheckAbsent(path):
                return _check(Check.ABSENT, path=self.text(path))
            case MapFile(path, identity, segments):
                array, count = self.records(
                    SEGMENT, [(s.address, s.length, s.offset, s.protection, 0) for s in segments]
                )
                return _record(
                    Kind.MAP_FILE,
                    array=array,
                    count=count,
                    path=self.text(path),
                    identity=self.identity(identity),
                )
            case Patch(words):
                array, count = self.records(
                    WORD, [(w.address, w.addend & _MASK, w.anchor, w.width) for w in words]
                )
                return _record(Kind.PATCH, array=array, count=count)
            case CallStore(function, slot):
                return _record(Kind.CALL_STORE, values=(function, slot))
            case SetThread(call, arguments):
                return _record(Kind.SET_THREAD, call, arguments)
            case Protect(address, length, protection):
                return _record(Kind.PROTECT, protection, (address, length))
            case Filter(program, flags, entry):
                if len(program) % 8:
                    raise LinkError("exec/bad-action", "a filter ends inside an instruction")
                return _record(
                    Kind.FILTER,
                    values=(flags, entry),
                    array=self.array(program),
                    count=len(program) // 8,
                )
            case Report(origins, names, call):
                rows = [(o.start, o.end, self.text(o.name), 0) for o in origins]
                array, count = self.records(ORIGIN, rows)
                texts = b"".join(self.text(name).to_bytes(4, "little") for name in names)
                return _record(
                    Kind.REPORT,
                    call,
                    (self.array(texts), len(names)),
                    array=array,
                    count=count,
                )
            case Gate():
                return self.gate(action)
            case Call(function):
                return _record(Kind.CALL, values=(function,))
            case Identity():
                array, count = self.records(RANGES, [(*action.code, *action.data)])
                values = (action.phdr, action.phnum, action.base, action.entry)
                return _record(
                    Kind.IDENTITY,
                    values=values,
                    array=array,
                    count=count,
                    path=self.text(action.path),
                )
            case Jump(address, rax, rdx):
                return _record(Kind.JUMP, values=(address, rax, rdx))


def _record(
    kind: Kind,
    what: int = 0,
    values: Sequence[int] = (),
    *,
    array: int = 0,
    count: int = 0,
    path: int = 0,
    identity: int = 0,
) -> bytes:
    padded = (*(value & _MASK for value in values), 0, 0, 0, 0)[:4]
    return ACTION.packer.pack(kind, what, *padded, array, count, path, identity)


def _check(
    what: Check,
    values: Sequence[int] = (),
    *,
    array: int = 0,
    count: int = 0,
    path: int = 0,
    identity: int = 0,
) -> bytes:
    return _record(Kind.CHECK, what, values, array=array, count=count, path=path, identity=identity)


def encode(
    actions: Sequence[Action],
    *,
    program: bytes,
    spans: Sequence[Span] = (),
    flags: TableFlag = NO_FLAGS,
    front: Front | None = None,
) -> bytes:
    """The bytes that the image holds behind the boot code, at a page-aligned address.

    ``program`` is the absolute path that the plain way executes; ``spans`` are the (start, end)
    of virtual addresses, whole pages, that actions may map, write and protect; ``front`` is asked
    for a new link where a check fails.

    Raises `LinkError` ``exec/bad-action`` where an action does not fit the format, and
    ``exec/bad-table`` where boot would refuse the table, such as an address outside the spans.
    """
    spans_at = HEADER.size
    actions_at = spans_at + SPAN.size * len(spans)
    encoder = _Encoder(actions_at + ACTION.size * len(actions))
    try:
        records = b"".join(encoder.action(action) for action in actions)
        program_at = encoder.text(program)
        front_at = encoder.text(front.path) if front else 0
        stale_at = encoder.text(STALE + front.entry) if front else 0
        header = HEADER.packer.pack(
            MAGIC,
            encoder.at + 8,  # eight zeros: the last byte must be NUL, even after an array
            VERSION,
            flags,
            program_at,
            actions_at,
            len(actions),
            spans_at,
            len(spans),
            front_at,
            stale_at,
            0,
        )
        packed_spans = b"".join(SPAN.packer.pack(*span) for span in spans)
    except error as why:
        raise LinkError(
            "exec/bad-action", "a number does not fit the action table", notes=(str(why),)
        ) from None
    data = b"".join((header, packed_spans, records, *encoder.chunks, bytes(8)))
    decode(data)
    return data
