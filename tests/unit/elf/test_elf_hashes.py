"""Names' hashes: against the ABI's examples and the scalar definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spidl.elf import gnu_hash, name_hash, name_hashes, sysv_hash


@pytest.mark.parametrize(
    ("name", "gnu", "sysv"),
    [
        (b"", 0x1505, 0),
        (b"printf", 0x156B2BB8, 0x077905A6),
        (b"exit", 0x7C967E3F, 0x0006CF04),
        (b"syscall", 0xBAC212A0, 0x0B09985C),
        (b"flapenguin.me", 0x8AE9F18E, 0x03987915),
    ],
)
def test_abi_hashes(name: bytes, gnu: int, sysv: int) -> None:
    assert gnu_hash(name) == gnu
    assert sysv_hash(name) == sysv


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\0", b"")), max_size=30), st.data()
)
def test_names_at_any_offset(names: list[bytes], data: st.DataObject) -> None:
    """Tails of names too: linkers let `read` share the bytes of `pread`."""
    table = b"\0".join([*names, b""]) or b"\0"
    starts = data.draw(st.lists(st.integers(0, len(table) - 1), max_size=20))
    strings = np.frombuffer(table, dtype=np.uint8)
    found = name_hashes(strings, np.array(starts, dtype=np.int64), np.flatnonzero(strings == 0))
    expected = [name_hash(table[start : table.index(b"\0", start)]) for start in starts]
    assert found.tolist() == expected


@pytest.mark.parametrize("lead", [0, 32766, 32767, 32768, 65535, 100_000])
def test_names_across_chunks(lead: int) -> None:
    table = b"x" * lead + b"\0first\0second\0"
    strings = np.frombuffer(table, dtype=np.uint8)
    starts = np.array([0, lead, lead + 1, lead + 7, lead // 2], dtype=np.int64)
    found = name_hashes(strings, starts, np.flatnonzero(strings == 0))
    names = [b"x" * lead, b"", b"first", b"second", b"x" * (lead - lead // 2)]
    assert found.tolist() == [name_hash(name) for name in names]


def test_names_that_differ_have_different_hashes() -> None:
    names = [f"function_{number}".encode() for number in range(5000)]
    assert len({name_hash(name) for name in names}) == len(names)
