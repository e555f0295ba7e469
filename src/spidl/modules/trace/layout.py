"""The traced calls as bytes: as struct trace and struct call of boot/trace.h have them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from spidl.api import PAGE, page_up
from spidl.modules.trace.prototypes import Prototype

MAGIC = b"spidltr1"
HEADER = struct.Struct("<8s16s5I4xQ")
CALL = struct.Struct("<Q3I4B40s")
COUNTER = 64
"""Bytes of a counter: a cache line, so that threads that call different functions do not meet."""

_FLOATS, _RETURNS, _CALL, _RESULT, _KNOWN, _MORE = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True, slots=True)
class Call:
    """One traced binding: names of the caller, the symbol and the object that defines it.

    ``lines`` is "" where calls are only counted.
    """

    caller: str
    symbol: str
    of: str
    lines: str = ""
    prototype: Prototype | None = None

    @property
    def flags(self) -> int:
        """As TRACE_* of boot/trace.h.

        A function is called, and not jumped to, where its result is wanted and where it is known
        what it finds on the stack.
        """
        prototype = self.prototype
        if not self.lines:
            return 0
        if prototype is None:
            return _CALL
        flags = _KNOWN | _FLOATS * prototype.has_floats | _MORE * prototype.more
        if self.lines == "call" or prototype.more or prototype.jump:
            return flags | _CALL
        return flags | _RETURNS | _RESULT | _CALL * (self.lines == "both")


def encode(calls: list[Call], identity: bytes, output: str, *, table: bool) -> bytes:
    """Header, calls and texts.  ``original`` is left 0: a relocation fills it in."""
    texts = bytearray()
    places: dict[str, int] = {}
    behind = HEADER.size + CALL.size * len(calls)

    def text(value: str) -> int:
        if value not in places:
            places[value] = behind + len(texts)
            texts.extend(value.encode(errors="surrogateescape") + b"\0")
        return places[value]

    rows = b""
    parts = []
    for call in calls:
        prototype = call.prototype
        arguments = b"" if prototype is None else bytes(prototype.arguments)
        parts.append(CALL.pack(
            0, text(call.caller), text(call.symbol), text(call.of), call.flags,
            0 if prototype is None else prototype.stack_words,
            0 if prototype is None else prototype.result, len(arguments), arguments,
        ))  # fmt: skip
    rows = b"".join(parts)
    where = text(output)
    size = behind + len(texts)
    header = HEADER.pack(MAGIC, identity, len(calls), size, counters_size(len(calls)), where,
                         table, 0)  # fmt: skip
    return header + rows + bytes(texts)


def counters_size(count: int) -> int:
    """Bytes of the counters: whole pages."""
    return page_up(max(1, count) * COUNTER)


def counts(content: bytes) -> Iterator[tuple[str, str, str, int]]:
    """(caller, symbol, of, count) of each traced binding, from a file that a program filled.

    Raises ValueError for one that it did not.
    """
    if len(content) < HEADER.size or content[: len(MAGIC)] != MAGIC:
        raise ValueError("no counts")
    _, _, count, size, counters, _, _, _ = HEADER.unpack_from(content)
    at = -(-size // PAGE) * PAGE
    if len(content) < at + counters:
        raise ValueError("cut off")

    def text(offset: int) -> str:
        return content[offset : content.index(b"\0", offset)].decode(errors="surrogateescape")

    for number in range(count):
        row = CALL.unpack_from(content, HEADER.size + number * CALL.size)
        (made,) = struct.unpack_from("<Q", content, at + number * COUNTER)
        yield text(row[1]), text(row[2]), text(row[3]), made
