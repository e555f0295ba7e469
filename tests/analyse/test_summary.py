"""Summaries as bytes, in the cache, and inside files."""

from __future__ import annotations

import ctypes
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import pytest

from spidl.analyse import Class, Site, Summary, Told, analyse, summary_of
from spidl.analyse.names import NAMES, name_of, number_of
from spidl.analyse.note import embed, embedded
from spidl.analyse.summary import ByAddress, Classes
from spidl.cache.objects import Objects as Kept
from spidl.diagnostics import LinkError
from spidl.elf import ElfFile
from spidl.link.objects import Objects
from tests.analyse.building import LIBRARY, build

LIBM = "/lib/x86_64-linux-gnu/libm.so.6"
MADE = Summary(
    build_id="ab12", soname="libx.so.1", needed=("libc.so.6",),
    imports=tuple((f"name{at}", "V1" if at % 2 else None) for at in range(11)),
    classes=(Class(frozenset({0, 1, 462}), frozenset({0, 10}), frozenset({(10, 39), (10, 1)}),
                   frozenset({0, 2})),
             Class(frozenset(), frozenset(), unknown=True)),
    always=1, entry=0, exports={("f", "V2"): 0, ("g", None): 1},
    addresses={0x2000: 1, 0x1000: 0}, wrappers={("f", "V2"): 5},
    told=(Told(0, "open"), Told(3, "\udcff"), Told(10, None)),
    unknown=(Site(0x1234, "f", "why", (1,)),), flags=frozenset({"int80"}),
)  # fmt: skip


def test_bytes_and_back() -> None:
    again = Summary.from_bytes(MADE.to_bytes())
    assert again == MADE
    assert tuple(again.classes) == MADE.classes
    assert again.classes[0] == MADE.classes[0]
    assert again.addresses == {0x1000: 0, 0x2000: 1}
    assert again.to_json() == MADE.to_json()
    assert json.loads(json.dumps(again.to_json()))["classes"][0]["wrapper_calls"] == [
        ["name10", "write"], ["name10", "getpid"],
    ]  # fmt: skip


def test_masks_are_the_classes() -> None:
    masks = MADE.masks
    assert isinstance(masks, Classes)
    assert masks[0] == MADE.classes[0]
    assert masks[-1].unknown
    assert [len(row) for row in (masks.syscalls[0], masks.imports[0])] == [64, 2]
    assert masks.wrapper_calls.tolist() == [[0, 10, 1], [0, 10, 39]]
    assert isinstance(MADE.by_address, ByAddress)


def _summary_or_none(data: bytes) -> Summary | None:
    try:
        found = Summary.from_bytes(data)
        found.to_json()  # names are unpacked when they are asked for
    except LinkError as error:
        if error.code != "analyse/summary":
            raise
        return None
    return found


def test_hostile_bytes_are_refused() -> None:
    """Any change is a LinkError, or the checksum was made to fit and the content is sound."""
    good = MADE.to_bytes()
    chooser = random.Random(1)
    head = struct.Struct("=8sII6I")
    _, version, _, *sizes = head.unpack_from(good)
    ends = [head.size + sum(sizes[:at]) for at in range(4)]
    parts = [zlib.decompress(good[start:end]) for start, end in pairwise(ends)]
    refused = 0
    for _ in range(3000):
        changed = [bytearray(part) for part in parts]
        victim = changed[chooser.choice([0, 0, 0, 1, 2])]
        for _ in range(chooser.randrange(1, 4)):
            victim[chooser.randrange(len(victim))] = chooser.randrange(256)
        if chooser.random() < 0.3:
            del victim[chooser.randrange(len(victim)) :]
        packed = [zlib.compress(bytes(part), 1) for part in changed]
        numbers = [*map(len, packed), *map(len, changed)]
        whole = b"".join(packed)
        data = head.pack(good[:8], version, zlib.crc32(whole), *numbers) + whole
        found = _summary_or_none(data)
        if found is None:
            refused += 1
            continue
        assert Summary.from_bytes(found.to_bytes()) == found
    assert refused > 1000
    for size in range(len(good)):
        with pytest.raises(LinkError, match="analyse/summary"):
            Summary.from_bytes(good[:size])


def test_names() -> None:
    assert name_of(0) == "read"
    assert number_of("mseal") == 462
    assert number_of(name_of(470)) == 470
    assert number_of("no_such_call") is None
    assert all(number_of(name) == number for number, name in NAMES.items())
    assert len(NAMES) > 370


def test_kept_in_the_cache(tmp_path: Path) -> None:
    store = Kept(str(tmp_path / "cache"))
    first = Objects(store)
    made = summary_of(first.open(LIBM), first)
    second = Objects(store)
    file = second.open(LIBM)
    assert any("packed_summary" in key for key in file.derivations)
    assert summary_of(file, second) == made
    assert made == analyse(ElfFile.open(LIBM))


def test_a_kept_summary_of_another_version_is_made_again(tmp_path: Path) -> None:
    file = ElfFile.open(LIBM)
    made = summary_of(file)
    (key,) = file.derivations
    packed = file.derivations[key]["packed"].copy()
    packed[8] ^= 1
    file.derivations[key] = {"packed": packed}
    assert summary_of(file) == made


def test_embedded(tmp_path: Path) -> None:
    """The copy loads, runs, and has its summary in it; another file's is not believed."""
    source = "int value = 7; int f(int x) { return x + value; }\n"
    path = build(tmp_path, source, "-shared", "-fPIC", "-Wl,--build-id")
    copy = tmp_path / "copy.so"
    command = [sys.executable, "-m", "spidl", "analyse", "--embed", str(path), "-o", str(copy)]
    subprocess.run(command, check=True)
    assert os.stat(copy).st_mode == os.stat(path).st_mode
    library = ctypes.CDLL(str(copy))
    assert library.f(3) == 10
    sections = subprocess.run(
        ["readelf", "-SW", str(copy)], capture_output=True, text=True, check=True
    )
    assert ".seccomp" in sections.stdout
    assert sections.stderr == ""
    plain, file = ElfFile.open(str(path)), ElfFile.open(str(copy))
    assert embedded(plain) is None
    found = embedded(file)
    assert found == analyse(plain)
    assert summary_of(file) == found
    assert not file.derivations, "it was read, not made"
    # Again, with another summary: it takes the first one's place.
    other = ElfFile.parse(embed(file, MADE), "other")
    assert embedded(other) == MADE
    assert summary_of(other) == analyse(plain), "it is of another build-id"


def test_a_file_without_build_id_takes_no_summary(tmp_path: Path) -> None:
    path = build(tmp_path, "int f;", "-shared", "-fPIC", "-nostdlib", "-Wl,--build-id=none")
    file = ElfFile.open(str(path))
    assert analyse(file).build_id.startswith("sha256:")
    with pytest.raises(LinkError, match="analyse/no-build-id"):
        embed(file, MADE)


def test_embedding_into_a_file_without_sections(tmp_path: Path) -> None:
    data = bytearray(build(tmp_path, "int f;", *LIBRARY).read_bytes())
    data[0x28:0x30], data[0x3A:0x40] = bytes(8), bytes(6)
    file = ElfFile.parse(bytes(data), "bare")
    assert embedded(ElfFile.parse(embed(file, analyse(file)), "copy")) == analyse(file)


def test_the_decoder_is_asked_for_by_name(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['iced_x86'] = None\n"
        "from spidl.analyse import analyse\n"
        "from spidl.elf import ElfFile\n"
        f"analyse(ElfFile.open({LIBM!r}))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "error[analyse/no-iced]" in result.stderr
    assert "pip install" in result.stderr


def test_mutated_files_give_a_summary_or_an_error(tmp_path: Path) -> None:
    """Any bytes: the analysis ends, and its only exception is LinkError."""
    source = Path(__file__).parent / "test_reach.py"
    assembly = source.read_text().split('ASSEMBLY = """')[1].split('"""')[0]
    path = build(tmp_path, assembly, *LIBRARY, language="S")
    good = path.read_bytes()
    chooser = random.Random(7)
    survived = 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(chooser.choice((1, 3, 20))):
            data[chooser.randrange(64, len(data))] = chooser.choice((0, 255, 0xE8, 0x0F, 0x05, 128))
        try:
            analyse(ElfFile.parse(bytes(data), "mutated")).to_bytes()
            survived += 1
        except LinkError:
            pass
    assert survived > 20
