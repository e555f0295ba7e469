"""ld.so.cache, format ``glibc-ld.so.cache1.1`` with its extensions.

Source: glibc, sysdeps/generic/dl-cache.h.

An unreadable or damaged cache is no cache, as for ld.so.
"""

from __future__ import annotations

import struct

MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("<20sIIB3xI3I")  # magic, nlibs, len_strings, flags, extension offset
_ENTRY = struct.Struct("<iIIIQ")  # flags, key, value, os version, hwcap
_X86_64_LIBC6 = 0x0303
_EXTENSION = 1 << 62
_EXTENSION_MAGIC = 0xEAA42174
_HWCAPS_TAG = 1
_PATH_MAX = 4096


def parse_cache(data: bytes, supported: tuple[str, ...]) -> dict[str, str]:
    """Soname to path; of several files, the one in the best supported glibc-hwcaps subfolder.

    ``supported`` lists subfolder names, the best first.
    """
    start = data.find(MAGIC)  # an old-format cache may come before it
    if start < 0 or start + _HEADER.size > len(data):
        return {}
    data = data[start:]
    _, count, _, _, extension, *_ = _HEADER.unpack_from(data)
    names = _hwcaps_names(data, extension)
    rank = {name: len(supported) - i for i, name in enumerate(supported)}
    best: dict[str, tuple[int, str]] = {}
    for i in range(min(count, (len(data) - _HEADER.size) // _ENTRY.size)):
        flags, key, value, _, hwcap = _ENTRY.unpack_from(data, _HEADER.size + i * _ENTRY.size)
        if flags != _X86_64_LIBC6:
            continue
        level = 0
        if hwcap & _EXTENSION:
            index = hwcap & 0xFFFFFFFF
            name = names[index] if index < len(names) else ""
            if name not in rank:
                continue
            level = rank[name]
        elif hwcap:
            continue  # legacy hwcaps, which no current system's ldconfig writes
        soname, path = _string(data, key), _string(data, value)
        if soname not in best or best[soname][0] < level:
            best[soname] = (level, path)
    return {soname: path for soname, (_, path) in best.items()}


def _string(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset, offset + _PATH_MAX)
    return data[offset : end if end >= 0 else offset].decode(errors="surrogateescape")


def _hwcaps_names(data: bytes, offset: int) -> list[str]:
    if not offset or offset % 4 or offset + 8 > len(data):
        return []
    magic, count = struct.unpack_from("<II", data, offset)
    if magic != _EXTENSION_MAGIC:
        return []
    for i in range(count):
        at = offset + 8 + 16 * i
        if at + 16 > len(data):
            return []
        tag, _, where, size = struct.unpack_from("<IIII", data, at)
        if tag == _HWCAPS_TAG and where + size <= len(data):
            offsets = struct.iter_unpack("<I", data[where : where + (size & -4)])
            return [_string(data, offset) for (offset,) in offsets]
    return []
