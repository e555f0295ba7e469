"""ld.so.cache: read as ld.so reads it; whatever it holds, a table and no error."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spidl.modules.gnu.ldcache import MAGIC, parse_cache

SYSTEM = Path("/etc/ld.so.cache")
LEVELS = ("x86-64-v3", "x86-64-v2")


def cache(*entries: tuple[str, str], hwcaps: dict[int, str] | None = None) -> bytes:
    """A cache in the new format; entry i is in the glibc-hwcaps subfolder ``hwcaps[i]``."""
    hwcaps = hwcaps or {}
    names = sorted(set(hwcaps.values()))
    head = len(MAGIC) + 28
    strings_at = head + 24 * len(entries)
    strings = b""
    rows = b""

    def text(value: str) -> int:
        nonlocal strings
        at = strings_at + len(strings)
        strings += value.encode() + b"\0"
        return at

    for i, (soname, path) in enumerate(entries):
        level = (1 << 62) + names.index(hwcaps[i]) if i in hwcaps else 0
        rows += struct.pack("<iIIIQ", 0x303, text(soname), text(path), 0, level)
    offsets = [text(name) for name in names]
    strings += bytes(-(strings_at + len(strings)) % 4)
    extension = strings_at + len(strings)
    tail = struct.pack("<IIIIII", 0xEAA42174, 1, 1, 0, extension + 24, 4 * len(names))
    tail += b"".join(struct.pack("<I", offset) for offset in offsets)
    return (
        struct.pack("<20sIIB3xI3I", MAGIC, len(entries), len(strings), 2, extension, 0, 0, 0)
        + rows + strings + tail
    )  # fmt: skip


GOOD = cache(
    ("liba.so.1", "/lib/v3/liba.so.1"), ("liba.so.1", "/lib/v9/liba.so.1"),
    ("liba.so.1", "/lib/liba.so.1"), ("libb.so", "/lib/libb.so"),
    hwcaps={0: "x86-64-v3", 1: "x86-64-v9"},
)  # fmt: skip


def test_the_best_subfolder_wins() -> None:
    assert parse_cache(GOOD, LEVELS) == {
        "liba.so.1": "/lib/v3/liba.so.1", "libb.so": "/lib/libb.so",
    }  # fmt: skip
    assert parse_cache(GOOD, ())["liba.so.1"] == "/lib/liba.so.1"


def test_an_old_format_cache_before_it() -> None:
    old = b"ld.so-1.7.0\0" + struct.pack("<I", 0)
    assert parse_cache(old + GOOD, LEVELS) == parse_cache(GOOD, LEVELS)


def test_truncated_at_every_offset() -> None:
    whole = parse_cache(GOOD, LEVELS)
    for size in range(len(GOOD)):
        found = parse_cache(GOOD[:size], LEVELS)
        assert set(found) <= {*whole, ""}, size
        assert set(found.values()) <= {*whole.values(), "", "/lib/liba.so.1"}, size
    assert parse_cache(GOOD[:100], LEVELS).get("libb.so", "") == ""


@pytest.mark.skipif(not SYSTEM.exists(), reason="this system has no ld.so.cache")
def test_the_system_s_own_truncated() -> None:
    data = SYSTEM.read_bytes()
    whole = parse_cache(data, LEVELS)
    assert whole["libc.so.6"].endswith("/libc.so.6")
    for size in random.Random(0).sample(range(len(data)), min(len(data), 150)):
        known = {*whole.values(), *parse_cache(data, ()).values(), ""}
        assert set(parse_cache(data[:size], LEVELS).values()) <= known


@given(st.binary(max_size=400), st.booleans())
def test_noise(noise: bytes, magic: bool) -> None:
    found = parse_cache((MAGIC if magic else b"") + noise, LEVELS)
    assert all(isinstance(path, str) for path in found.values())


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 4), st.integers(0, 2**32 - 1)), max_size=6))
def test_damaged(edits: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in edits:
        data[at : at + 4] = value.to_bytes(4, "little")
    for soname, path in parse_cache(bytes(data), LEVELS).items():
        assert len(soname) + len(path) < 2 * len(data)


def test_strings_without_an_end_take_no_memory() -> None:
    """Each of many entries names the whole rest of the file."""
    count = 3000
    head = struct.pack("<20sIIB3xI3I", MAGIC, count, 0, 2, 0, 0, 0, 0)
    at = len(head) + 24 * count
    rows = b"".join(struct.pack("<iIIIQ", 0x303, at + i, at + i, 0, 0) for i in range(count))
    tracemalloc.start()
    parse_cache(head + rows + b"x" * (1 << 20), LEVELS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20
