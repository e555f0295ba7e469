"""Parsing is total: any bytes give a value or a LinkError."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from elf_seeds import ATTRIBUTES, LIBC, rich_dso, touch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spidl.diagnostics import LinkError
from spidl.elf import DT, ElfFile

SMALL = "/usr/bin/true"
T = TypeVar("T")


def attempt(read: Callable[[], T]) -> T | None:
    """The value, or None where reading it is a parse error; any other exception passes."""
    try:
        return read()
    except LinkError as error:
        if not error.code.startswith("parse/"):
            raise
        return None


def survive(data: bytes) -> int:
    """Read everything; how many attributes could be read."""
    elf = attempt(lambda: ElfFile.parse(data, "mutant"))
    if elf is None:
        return 0
    read = 0
    for name in ATTRIBUTES:
        try:
            value = getattr(elf, name)
        except LinkError as error:
            if not error.code.startswith("parse/"):
                raise
            continue
        read += 1
        if isinstance(value, np.ndarray):
            assert value.nbytes <= 8 * len(data), f"{name} outgrows the file"
    symbols = attempt(lambda: elf.symbols)
    count = 0 if symbols is None else len(symbols)
    for index in range(min(count, 50)):
        attempt(lambda index=index: elf.symbol_name(index))  # type: ignore[misc]
    for table in (attempt(lambda: elf.rela), attempt(lambda: elf.jmprel)):
        assert table is None or not len(table) or table["r_sym"].max() < max(count, 1)
    return read


def test_truncated_at_every_offset() -> None:
    data = Path(SMALL).read_bytes()
    whole = ElfFile.parse(data, SMALL)
    needed = max(load.offset + load.filesz for load in whole.loads)
    for size in range(needed):
        with pytest.raises(LinkError) as caught:
            ElfFile.parse(data[:size], SMALL)
        assert caught.value.code == ("parse/truncated" if size else "parse/not-elf")
    names = touch(whole)["names"]
    assert touch(ElfFile.parse(data[:needed], SMALL))["names"] == names, "no sections are needed"


def test_truncated_tables_of_a_built_object() -> None:
    """The same with segments that shrink with the file, so that the tables are what is cut."""
    data = bytearray(rich_dso())
    loads = np.flatnonzero(ElfFile.parse(bytes(data), "x").phdrs["p_type"] == 1)
    at = 64 + 56 * int(loads[0])
    last = ElfFile.parse(bytes(data), "x").tag(DT.RELR)
    assert last is not None
    whole = survive(bytes(data))
    for short in range(0, last + 1, 7):
        data[at + 32 : at + 40] = short.to_bytes(8, "little")
        assert survive(bytes(data)) < whole


SEEDS = [rich_dso("both"), rich_dso("none"), Path(SMALL).read_bytes()]
INTERESTING = [0, 1, 2, 3, 7, 8, 24, 63, 255, 4095, 4096, 0xFFFF, 1 << 20, 1 << 31, 0xFFFFFFFF]
INTERESTING += [
    1 << 32,
    (1 << 47) - 1,
    1 << 47,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 8,
    (1 << 64) - 1,
]
TAGS = [int(tag) for tag in DT]
words = st.sampled_from(INTERESTING) | st.integers(0, 1 << 14) | st.integers(0, (1 << 64) - 1)


@dataclass(frozen=True)
class Mutant:
    """A seed with bytes replaced; the repr is what Hypothesis prints."""

    seed: int
    edits: tuple[tuple[int, bytes], ...]

    @property
    def data(self) -> bytes:
        content = bytearray(SEEDS[self.seed])
        for at, replacement in self.edits:
            content[at : at + len(replacement)] = replacement
        return bytes(content)


@st.composite
def mutants(draw: st.DrawFn) -> Mutant:
    """A real file with a few bytes, header fields, dynamic entries or table words changed."""
    number = draw(st.integers(0, len(SEEDS) - 1))
    seed = SEEDS[number]
    elf = ElfFile.parse(seed, "seed")
    assert elf.dynamic_vaddr is not None
    dynamic = elf.file_offset(elf.dynamic_vaddr)
    tables = [elf.file_offset(v) for v in elf.dynamic["d_val"].tolist() if _inside(elf, v)]
    head = 64 + 56 * len(elf.phdrs)
    edits: list[tuple[int, bytes]] = []
    for _ in range(draw(st.integers(1, 4))):
        width, value = draw(st.sampled_from([1, 2, 4, 8])), draw(words)
        match draw(st.sampled_from(["byte", "header", "field", "tag", "value", "table", "splice"])):
            case "byte":
                at, width = draw(st.integers(0, len(seed) - 8)), 1
            case "header":
                at = draw(st.integers(0, head - 8))
            case "field":
                at, width = 64 + 8 * draw(st.integers(0, 7 * len(elf.phdrs) - 1)), 8
            case "tag":
                at, width = dynamic + 16 * draw(st.integers(0, len(elf.dynamic))), 8
                value = draw(st.sampled_from(TAGS))
            case "value":
                at, width = dynamic + 16 * draw(st.integers(0, len(elf.dynamic))) + 8, 8
                value = draw(words | st.sampled_from(elf.dynamic["d_val"].tolist()))
            case "table":
                at = draw(st.sampled_from(tables)) + 2 * draw(st.integers(0, 60))
            case _:
                source, at = (draw(st.integers(0, len(seed) - 64)) for _ in range(2))
                edits.append((at, seed[source : source + 64]))
                continue
        edits.append((at, (value % (1 << 8 * width)).to_bytes(width, "little")))
    return Mutant(number, tuple(edits))


def _inside(elf: ElfFile, vaddr: int) -> bool:
    try:
        elf.file_offset(vaddr, 128)
    except LinkError:
        return False
    return vaddr > 256


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutants())
def test_mutants(mutant: Mutant) -> None:
    assert survive(mutant.data) <= len(ATTRIBUTES)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_noise(noise: bytes, magic: bool) -> None:
    header = Path(LIBC).read_bytes()[:24] if magic else b""
    assert survive(header + noise) <= len(ATTRIBUTES)
