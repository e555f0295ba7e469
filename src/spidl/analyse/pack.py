"""Summaries as bytes: a magic, a checksum, and three parts under zlib.

The first is a line of JSON and columns of numbers, all that a link asks for; the others are the
names of imports and of exports, which are unpacked when somebody asks for one.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.analyse.keys import Exports, Key, Keys
from spidl.analyse.summary import (
    NUMBERS,
    VERSION,
    ByAddress,
    Classes,
    Site,
    Summary,
    Told,
)
from spidl.diagnostics import LinkError, Place

_MAGIC = b"SPIDLSC1"
_HEAD = struct.Struct("=8sII6I")
"""Magic, the analyser's version, checksum of the rest; bytes of each part, of each unpacked."""
_LARGEST = 1 << 28
"""Bytes unpacked; the largest library of a Debian machine has some 20 MB."""


def pack(summary: Summary) -> bytes:
    """The bytes of a summary."""
    masks, addresses = summary.masks, summary.by_address
    imported, exported = summary.imported, summary.exported
    head = {
        "build_id": summary.build_id,
        "soname": summary.soname,
        "needed": summary.needed,
        "always": summary.always,
        "entry": summary.entry,
        "flags": sorted(summary.flags),
        "unknown": [[s.vaddr, s.function, s.reason, s.classes] for s in summary.unknown],
        "imports": len(summary.imports),
        "classes": len(summary.classes),
        "exports": len(summary.exports),
        "addresses": len(addresses),
        "wrapper_calls": len(masks.wrapper_calls),
        "told": [[told.function, told.name] for told in summary.told],
        "tells": len(masks.told),
        "wrappers": [[*key, at] for key, at in summary.wrappers.items()],
    }
    columns: list[npt.NDArray[Any]] = [
        addresses.vaddrs.astype("<u8"),
        addresses.classes.astype("<u4"),
        imported.names.astype("<u8"),
        imported.versions.astype("<u8"),
        exported.symbols.names.astype("<u8"),
        exported.symbols.versions.astype("<u8"),
        exported.classes.astype("<u4"),
        masks.wrapper_calls.astype("<u4"),
        masks.told.astype("<u4"),
        masks.unknown.astype(np.uint8),
        masks.syscalls,
        masks.imports,
    ]
    content = b"".join(
        [json.dumps(head).encode(), b"\n", *(column.tobytes() for column in columns)]
    )
    parts = [content, _joined(summary.imports), _joined(summary.exports)]
    packed = [zlib.compress(part, 6) for part in parts]
    whole = b"".join(packed)
    lengths = [*map(len, packed), *map(len, parts)]
    return _HEAD.pack(_MAGIC, summary.version, zlib.crc32(whole), *lengths) + whole


def _joined(keys: Iterable[Key]) -> bytes:
    return "\0".join([part or "" for key in keys for part in key]).encode(errors="surrogateescape")


def unpack(data: bytes, name: str) -> Summary:
    """The summary that `pack` made; ``name`` is what the message calls the bytes.

    Raises LinkError ``analyse/summary``.
    """
    try:
        return _unpack(data, name)
    except _DAMAGED as error:
        raise _error(name, error) from None


_DAMAGED = (ValueError, LookupError, TypeError, struct.error, zlib.error, RecursionError)


def _error(name: str, error: Exception) -> LinkError:
    return LinkError(
        "analyse/summary",
        f"not a summary of system calls: {error}",
        place=Place(name),
        help="remove it: it is made again from the file that it describes",
    )


@dataclass(frozen=True, slots=True)
class _Names:
    """Names and versions of symbols, as yet under zlib."""

    summary: str
    packed: bytes
    length: int
    count: int

    def read(self) -> Sequence[Key]:
        """Raises LinkError ``analyse/summary``."""
        try:
            text = _inflated(self.packed, self.length).decode(errors="surrogateescape")
            parts = text.split("\0") if self.count else []
            if len(parts) != 2 * self.count:
                raise ValueError("its names are not as many as it says")
        except _DAMAGED as error:
            raise _error(self.summary, error) from None
        versions = [version or None for version in parts[1::2]]
        return tuple(zip(parts[::2], versions, strict=True))


def _inflated(packed: bytes, length: int) -> bytes:
    """Raises ValueError or zlib.error."""
    if length > _LARGEST:
        raise ValueError("it is damaged")
    # With no limit for nothing: 0 would mean none.
    content = zlib.decompressobj().decompress(packed, length or 1)
    if len(content) != length:
        raise ValueError("it is truncated")
    return content


class _Columns:
    """Takes columns off the front of bytes."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.at = 0

    def take(self, dtype: str, *shape: int) -> npt.NDArray[Any]:
        """Raises ValueError where there is not so much."""
        count = 1
        for length in shape:
            count *= length
        size = count * np.dtype(dtype).itemsize
        if size > len(self.data) - self.at:
            raise ValueError("it is truncated")
        # Not zero-copy where it would be unaligned.
        column = np.frombuffer(self.data[self.at : self.at + size], dtype).reshape(shape)
        self.at += size
        return column


def _unpack(data: bytes, name: str) -> Summary:
    magic, version, checksum, *lengths = _HEAD.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("it starts with other bytes")
    if version != VERSION:
        raise ValueError(f"it is of version {version}, this is {VERSION}")
    if zlib.crc32(memoryview(data)[_HEAD.size :]) != checksum:
        raise ValueError("it is damaged")
    behind = [_HEAD.size + sum(lengths[:at]) for at in range(4)]
    first, second, third = (data[start:end] for start, end in pairwise(behind))
    content = _inflated(first, lengths[3])
    end = content.index(b"\n")
    head = json.loads(content[:end])
    counts = [_count(head[key]) for key in
              ("imports", "classes", "exports", "addresses", "wrapper_calls", "tells")]  # fmt: skip
    imports, classes, exports, addresses, calls, tells = counts
    columns = _Columns(memoryview(content)[end + 1 :])
    by_address = ByAddress(columns.take("<u8", addresses), columns.take("<u4", addresses))
    hashes = [columns.take("<u8", count) for count in (imports, imports, exports, exports)]
    of_export = columns.take("<u4", exports)
    wrapper_calls, tells_of = columns.take("<u4", calls, 3), columns.take("<u4", tells, 2)
    unknown = columns.take("u1", classes)
    masks = Classes(
        columns.take("u1", classes, NUMBERS // 8),
        columns.take("u1", classes, -(-imports // 8)),
        wrapper_calls,
        tells_of,
        unknown.astype(np.bool_),
    )
    of_imports = _Names(name, second, lengths[4], imports)
    of_exports = _Names(name, third, lengths[5], exports)
    told = tuple(
        Told(_index(function, imports), None if told is None else _text(told))
        for function, told in _list(head["told"])
    )
    _check_members(masks, imports, len(told), by_address, of_export)
    return Summary(
        build_id=_text(head["build_id"]),
        soname=_text(head["soname"]),
        needed=tuple(_text(item) for item in _list(head["needed"])),
        imports=Keys(hashes[0], hashes[1], of_imports.read),
        classes=masks,
        always=_index(head["always"], classes),
        entry=None if head["entry"] is None else _index(head["entry"], classes),
        exports=Exports(Keys(hashes[2], hashes[3], of_exports.read), of_export),
        addresses=by_address,
        wrappers={
            (_text(symbol), None if of is None else _text(of)): _index(at, 6)
            for symbol, of, at in _list(head["wrappers"])
        },
        told=told,
        unknown=tuple(
            Site(_count(vaddr), _text(function), _text(reason),
                 tuple(_index(at, classes) for at in _list(reached)))
            for vaddr, function, reason, reached in _list(head["unknown"])
        ),
        flags=frozenset(_text(flag) for flag in _list(head["flags"])),
        version=version,
    )  # fmt: skip


def _check_members(
    masks: Classes, imports: int, told: int, by_address: ByAddress, of_export: npt.NDArray[Any]
) -> None:
    """Every index is of something.  Raises ValueError."""
    classes = len(masks)
    indexes = [(of_export, classes), (by_address.classes, classes)]
    indexes += [(masks.told[:, at], most) for at, most in enumerate((classes, told))]
    indexes += [(masks.wrapper_calls[:, at], most)
                for at, most in enumerate((classes, imports, NUMBERS))]  # fmt: skip
    fine = all(not len(column) or int(column.max()) < most for column, most in indexes)
    if imports % 8 and classes:
        fine = fine and int(masks.imports[:, -1].max()) < 1 << imports % 8
    ascending = bool((by_address.vaddrs[1:] > by_address.vaddrs[:-1]).all())
    if not fine or not ascending:
        raise ValueError("it names what it does not have")


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError("a number is missing")
    return value


def _index(value: object, most: int) -> int:
    if _count(value) >= most:
        raise ValueError("it names what it does not have")
    return _count(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a name is missing")
    return value


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a list is missing")
    return value
