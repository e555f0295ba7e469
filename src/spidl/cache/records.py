"""Files of numbers, strings and arrays in the cache folder: how they are written and believed.

A record counts only under the very key that it was kept under, for the very code that made it, and
where nobody else could have written it.  One that is damaged, or of another version, is none.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.cache.private import is_ours, is_private
from spidl.cache.store import Store
from spidl.diagnostics import LinkError

Record = tuple[Mapping[str, Any], Mapping[str, npt.NDArray[Any]]]
"""As in `spidl.elf.record`."""
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_MAGIC = b"SPIDLOB2"
KEY = 40
"""Bytes of a key."""
_HEAD = struct.Struct(f"=8s16s{KEY}sII")
"""Magic, stamp of the code, key, checksum and length of what is described."""
_LARGEST = 1 << 28
_DAY = 86_400
_TYPES = ("uint64", "int64", "uint32", "int32", "uint16", "uint8", "bool")
_ALIGN = 8


class Records:
    """The files in the folder ``objects`` of a cache folder.

    ``makers`` are the folders of the package whose code makes the records.
    """

    makers: tuple[str, ...] = ()

    def __init__(self, cache: str) -> None:
        self.folder = os.path.join(cache, "objects")
        self._parent = cache
        self._stamp: bytes | None = None
        self._usable: bool | None = None

    def read(self, name: str, key: bytes) -> Record | None:
        """The record of a name, None where there is none that is valid under ``key``."""
        if not self._is_usable():
            return None
        try:
            data = self._read(os.path.join(self.folder, name), key)
            return None if data is None else _decode(data)
        except (OSError, ValueError, LookupError, TypeError, struct.error, RecursionError):
            return None

    def write(self, name: str, key: bytes, record: Record) -> None:
        """Write a record whole, or not at all where that cannot be."""
        if not self._is_usable(make=True):
            return
        described = _encode(record)
        head = _HEAD.pack(_MAGIC, self._code(), key, zlib.crc32(described), len(described))
        path = os.path.join(self.folder, name)
        temporary = f"{path}.{os.getpid()}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with os.fdopen(os.open(temporary, flags, 0o600), "wb", buffering=0) as file:
                written = file.write(head + described)
            if written != len(head) + len(described):
                raise OSError("no room")
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)

    def entries(self) -> Iterator[tuple[str, int, float]]:
        """(path, bytes on disk, day of last use in seconds since 1970) of each file there."""
        with suppress(OSError), os.scandir(self.folder) as found:
            for item in found:
                with suppress(OSError):
                    status = item.stat(follow_symlinks=False)
                    yield item.path, status.st_blocks * 512, status.st_mtime

    def remove(self, path: str) -> None:
        """Remove one of `entries`; that it cannot be, or is gone, is no error."""
        with suppress(OSError):
            os.unlink(path)

    def _is_usable(self, make: bool = False) -> bool:
        if self._usable is None or (make and not self._usable):
            try:
                if make:
                    Store(self._parent).prepare()
                    with suppress(FileExistsError):
                        os.mkdir(self.folder, 0o700)
                self._usable = is_private(self._parent) and is_private(self.folder)
                # A link would lead to a folder that somebody else may change.
                self._usable = self._usable and not os.path.islink(self.folder)
            except (OSError, ValueError, LinkError):
                self._usable = False
        return self._usable

    def _read(self, path: str, key: bytes) -> memoryview | None:
        """What a file describes, if it is of this key and of this code."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            good = stat.S_ISREG(status.st_mode) and is_ours(status)
            if not good or status.st_size > _LARGEST:
                return None
            data = os.read(descriptor, status.st_size)
            if time.time() - status.st_mtime > _DAY:
                with suppress(OSError):
                    os.utime(descriptor)
        finally:
            os.close(descriptor)
        magic, stamp, found, checksum, length = _HEAD.unpack_from(data)
        described = memoryview(data)[_HEAD.size :]
        if (magic, stamp, found) != (_MAGIC, self._code(), key):
            return None
        if len(described) != length or zlib.crc32(described) != checksum:
            return None
        return described

    def _code(self) -> bytes:
        """A hash of the identity of the code that makes records."""
        if self._stamp is None:
            import hashlib

            digest = hashlib.sha256()
            for path in sorted(self._sources()):
                status = os.stat(path)
                digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
            self._stamp = digest.digest()[:16]
        return self._stamp

    def _sources(self) -> Iterator[str]:
        for name in self.makers:
            for folder, _, files in os.walk(os.path.join(_PACKAGE, name)):
                yield from (os.path.join(folder, file) for file in files if file.endswith(".py"))


def _encode(record: Record) -> bytes:
    """A line of JSON, then the arrays, each at a multiple of eight bytes."""
    places: list[tuple[str, str, int, int]] = []
    parts: list[bytes] = []
    at = 0
    for name, array in record[1].items():
        content = array.tobytes()
        places.append((name, array.dtype.name, at, len(array)))
        parts.append(content.ljust(-(-len(content) // _ALIGN) * _ALIGN, b"\0"))
        at += len(parts[-1])
    head = json.dumps([record[0], places]).encode() + b"\n"
    pad = -(_HEAD.size + 8 + len(head)) % _ALIGN
    return struct.pack("=Q", len(head) + pad) + head + b"\0" * pad + b"".join(parts)


def _decode(data: memoryview) -> Record:
    size = struct.unpack_from("=Q", data)[0]
    start = 8 + size
    values, places = json.loads(bytes(data[8:start]).rstrip(b"\0"))
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, kind, at, count in places:
        if kind not in _TYPES:
            raise ValueError("an array of an unknown type")
        arrays[name] = np.frombuffer(data, kind, count, start + at)
    return values, arrays
