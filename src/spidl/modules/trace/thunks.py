"""The generated object: a thunk for each traced binding, its counter, what is known of it.

    count:  endbr64; lock incq counter; jmp *original
    log:    endbr64; lock incq counter; lea call, %r11; jmp *spidl_trace_log

The originals are imports like any other: whoever relocates the object finds them, IFUNCs included.
"""

from __future__ import annotations

from dataclasses import dataclass

from spidl.api import PAGE, STT, STV, Define, R, Reference, Relocate, Undefined, build_dso
from spidl.modules.trace.layout import CALL, COUNTER, HEADER, Call, counters_size

NAME = "libspidl-calls.so"
TABLE = "spidl_trace_calls"
LOG = "spidl_trace_log"
THUNKS = "spidl_trace_thunks"
_COUNTERS, _SLOT = "spidl_trace_counters", "spidl_trace_slot"
_THUNK = 32
_COUNT = bytes.fromhex("f30f1efa f048ff0500000000 ff2500000000")
_LOG = bytes.fromhex("f30f1efa f048ff0500000000 4c8d1d00000000 ff2500000000")


@dataclass(frozen=True, slots=True)
class Import:
    """A function under the name and version that leads to it."""

    name: str
    version: str | None
    file: str | None

    @property
    def key(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def import_of(reference: Reference) -> Import:
    """What to ask for to get a reference's definition."""
    provider, version = reference.provider, reference.version
    if version is None or provider.file.soname is None:
        return Import(reference.name, None, None)
    return Import(reference.name, version, provider.file.soname)


def build(calls: list[tuple[Call, Import]], table: bytes) -> bytes:
    """The object; ``table`` is `layout.encode`'s.

    It names no libraries: whatever it asks for is in the program's scope, and musl does not find
    by name what it was told to preload by path.
    """
    code = bytearray()
    relocations = []

    def near(offset: int, target: str, at: int) -> None:
        """The 32-bit distance from the end of the field at ``offset`` to ``at`` in ``target``."""
        relocations.append(Relocate(THUNKS, R.PC32, target=target, offset=offset, addend=at - 4))

    for number, (call, original) in enumerate(calls):
        here, row = len(code), HEADER.size + number * CALL.size
        near(here + 8, _COUNTERS, number * COUNTER)
        if call.flags:
            code += _LOG
            near(here + 15, TABLE, row)
            near(here + 21, _SLOT, 0)
        else:
            code += _COUNT
            near(here + 14, TABLE, row)
        code += b"\xcc" * (-len(code) % _THUNK)
        relocations.append(Relocate(TABLE, R.JUMP_SLOT, symbol=original.key, offset=row))
    relocations.append(Relocate(_SLOT, R.R64, symbol=LOG))
    imports = {original.key: original for _, original in calls}
    return build_dso(
        NAME,
        {
            THUNKS: bytes(code),
            _COUNTERS: Define(
                bytes(counters_size(len(calls))), STT.OBJECT, visibility=STV.HIDDEN, align=PAGE
            ),
            TABLE: Define(table, STT.OBJECT, align=PAGE),
            _SLOT: Define(bytes(8), STT.OBJECT, visibility=STV.HIDDEN),
        },
        undefined=[LOG, *(Undefined(i.name, i.version, i.file) for i in imports.values())],
        relocations=relocations,
    )


def thunk(number: int) -> int:
    """The offset of a thunk in `THUNKS`, in bytes."""
    return number * _THUNK
