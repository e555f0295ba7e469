"""The fast half of the sweep finds what iced finds: on real libraries, and on any bytes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from spidl.analyse import analyse, code, forms, native
from spidl.analyse.code import Decoded, sweep
from spidl.analyse.frames import read_frames
from spidl.analyse.layout import Column, Layout, Text
from spidl.elf import ElfFile

DECODE = Path(__file__).parents[2] / "decode"
LIBRARIES = ("libc.so.6", "libstdc++.so.6", "libcrypto.so.3", "libz.so.1", "libm.so.6")
FOLDER = Path("/usr/lib/x86_64-linux-gnu")
EMPTY = np.zeros(0, dtype=np.int64)


def nothing(*arguments: object) -> Iterator[native.Rows]:
    yield from ()


def without_the_fast_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "sweep_fast", nothing)


def columns(found: Decoded) -> list[list[object]]:
    """Everything, in an order that does not depend on who found it."""
    refs = [sorted(zip(r.sources.tolist(), r.targets.tolist(), r.kinds.tolist(), strict=True))
            for r in (found.refs, found.wide)]  # fmt: skip
    others = (found.syscalls, found.interrupts, found.falls, found.returns, found.strange,
              found.cuts)  # fmt: skip
    return [*refs, *(sorted(column.tolist()) for column in others)]


def functions(layout: Layout) -> Iterator[tuple[Text, Column, Column]]:
    """Ranges as the frame tables give them, without overlap."""
    frames = read_frames(layout)
    starts, keep = np.unique(frames.starts, return_index=True)
    ends = np.minimum(frames.ends[keep], np.append(starts[1:], 1 << 62))
    for text in layout.texts:
        mine = (starts >= text.vaddr) & (starts < text.end)
        yield text, starts[mine], np.minimum(ends[mine], text.end)


def test_it_is_built() -> None:
    assert native.is_built(), "make -C decode"


def test_what_it_knows_is_what_iced_says() -> None:
    assert (DECODE / "forms.h").read_text() == forms.header(), "make -C decode header"


@pytest.mark.parametrize("name", LIBRARIES)
def test_real_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(ElfFile.open(str(FOLDER / name)))
    for text, starts, ends in functions(layout):
        fast = columns(sweep(text, starts, ends, ends))
        with monkeypatch.context() as patch:
            without_the_fast_half(patch)
            assert columns(sweep(text, starts, ends, ends)) == fast


@pytest.mark.parametrize("name", ["libz.so.1", "libc.so.6"])
def test_a_summary_does_not_depend_on_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(FOLDER / name)
    fast = analyse(ElfFile.open(path)).to_bytes()
    without_the_fast_half(monkeypatch)
    assert analyse(ElfFile.open(path)).to_bytes() == fast


def test_little_is_left_to_iced() -> None:
    layout = Layout(ElfFile.open(str(FOLDER / "libstdc++.so.6")))
    for text, starts, ends in functions(layout):
        finals = np.full(len(starts), native.UNSURE, dtype=np.uint8)
        marks = np.zeros(len(text.data), dtype=np.bool_)
        list(native.sweep_fast(text, starts, ends, marks, finals))
        assert (finals == native.UNSURE).mean() < 0.01


PREFIXES = bytes.fromhex("26 2e 36 3e 64 65 66 67 f0 f2 f3 40 41 44 48 4f 0f c4 c5 62 8f")


def any_instruction(chance: random.Random) -> bytes:
    """15 bytes that begin with prefixes and escapes more often than not."""
    head = bytes(chance.choice(PREFIXES) for _ in range(chance.randrange(4)))
    if chance.random() < 0.3:
        head += chance.choice((b"\x0f", b"\x0f\x38", b"\x0f\x3a", b"\xc5\xf8", b"\xc4\xe2\x79"))
    return (head + chance.randbytes(15))[:15]


@pytest.mark.parametrize("seed", range(4))
def test_any_bytes(seed: int) -> None:
    """What it takes for an instruction, iced reads alike; what iced does not, it leaves alone."""
    chance = random.Random(seed)
    decoder, table, taken = code.decoder(), code.codes(), 0
    for _ in range(4000):
        data = any_instruction(chance)
        one = decoder(64, data, ip=0x1000).decode()
        size = min(one.len, len(data))
        text = Text(0x1000, np.frombuffer(data, dtype=np.uint8))
        starts, ends = np.array([0x1000]), np.array([0x1000 + size])
        finals = np.full(1, native.UNSURE, dtype=np.uint8)
        marks = np.zeros(len(data), dtype=np.bool_)
        rows = list(native.sweep_fast(text, starts, ends, marks, finals))
        if finals[0] == native.UNSURE:
            assert not marks.any()
            continue
        taken += 1
        assert not table.impossible[one.code], data.hex()
        assert np.flatnonzero(marks).tolist() == [0], data.hex()
        batch = code._Batch(text, starts, ends)
        assert batch.finals().tolist() == finals.tolist(), data.hex()
        slow, fast = (sorted(zip(*(column.tolist() for column in part), strict=True))
                      for part in (batch.rows(), rows[0]))  # fmt: skip
        assert slow == fast, data.hex()
    assert taken > 1000


def test_a_function_that_ends_inside_an_instruction_is_left_to_iced() -> None:
    text = Text(0, np.frombuffer(bytes.fromhex("90 e8 00 00 00 00 c3"), dtype=np.uint8))
    found = sweep(text, np.array([0]), np.array([4]), np.array([4]))
    assert found.strange.tolist() == [0]
    assert sweep(text, np.array([0]), np.array([7]), np.array([7])).strange.tolist() == []
