"""Damaged entries: never used, never an exception, replaced by the next link."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from keeping import IMAGE, KEY, OTHER, keep, place

from spidl.cache.entry import Input, checksum, decode, encode
from spidl.cache.identity import identity
from spidl.cache.store import Store


def edit(store: Store, **values: object) -> None:
    """Another content, well formed and with its checksum."""
    path = place(store) / "entry"
    path.write_bytes(encode(replace(decode(path.read_bytes()), **values)))  # type: ignore[arg-type]  # whatever a test says


def signed(data: bytes) -> bytes:
    """With the checksum that fits."""
    return data[:8] + struct.pack("<Q", checksum(data)) + data[16:]


def number(store: Store, at: int, value: int) -> None:
    """Another 32-bit number in the header, with the right checksum."""
    path = place(store) / "entry"
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, at, value)
    path.write_bytes(signed(bytes(data)))


def swap(store: Store) -> None:
    """The whole entry of another program, moved to this one's place."""
    keep(store, Path(decode((place(store) / "entry").read_bytes()).inputs[0].path), key=OTHER)
    for name in ("entry", "program"):
        (place(store) / name).unlink()
    place(store).rmdir()
    Path(store.place(OTHER)).rename(place(store))


def image_link(store: Store) -> None:
    image = place(store) / "program"
    image.rename(place(store) / "real")
    image.symlink_to("real")


def image_bits(store: Store) -> None:
    image = place(store) / "program"
    before = image.stat()
    image.write_bytes(IMAGE[::-1])
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGES: dict[str, Callable[[Store], object]] = {
    "image gone": lambda s: (place(s) / "program").unlink(),
    "image truncated": lambda s: os.truncate(place(s) / "program", 5),
    "image longer": lambda s: os.truncate(place(s) / "program", 50),
    "image's bits": image_bits,
    "image is a link": image_link,
    "image is a folder": lambda s: ((place(s) / "program").unlink(),
                                    (place(s) / "program").mkdir()),
    "entry gone": lambda s: (place(s) / "entry").unlink(),
    "entry empty": lambda s: (place(s) / "entry").write_text(""),
    "entry of noise": lambda s: (place(s) / "entry").write_bytes(b"\xff\0" * 500),
    "entry a folder": lambda s: ((place(s) / "entry").unlink(), (place(s) / "entry").mkdir()),
    "entry a link": lambda s: ((place(s) / "entry").rename(place(s) / "other"),
                               (place(s) / "entry").symlink_to("other")),
    "entry writable by others": lambda s: (place(s) / "entry").chmod(0o602),
    "another's entry": swap,
    "another key": lambda s: edit(s, key=OTHER.text),
    "no inputs": lambda s: edit(s, inputs=()),
    "inputs with a NUL": lambda s: edit(s, inputs=(Input("/a", (1, 2, 3, 4, 5)),)),
    "inputs outside": lambda s: number(s, 52, 1 << 30),
    "many inputs": lambda s: number(s, 56, 1 << 26),
    "image outside": lambda s: number(s, 40, 1 << 30),
    "another size": lambda s: number(s, 16, 8),
    "image elsewhere": lambda s: edit(s, image="/usr/bin/true",
                                      written=identity("/usr/bin/true")),
    "image above": lambda s: edit(s, image="../../../../../usr/bin/true",
                                  written=identity("/usr/bin/true")),
    "image of no name": lambda s: edit(s, image=""),
    "place writable by others": lambda s: place(s).chmod(0o722),
    "images writable by the group": lambda s: (Path(s.folder) / "images").chmod(0o770),
    "folder writable by others": lambda s: Path(s.folder).chmod(0o707),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entry_is_not_used(store: Store, source: Path, damage: str) -> None:
    keep(store, source)
    DAMAGES[damage](store)
    assert store.find(KEY) is None


@pytest.mark.parametrize("damage", [d for d in DAMAGES if "writable" not in d])
def test_damaged_entry_is_replaced(store: Store, source: Path, damage: str) -> None:
    keep(store, source)
    DAMAGES[damage](store)
    kept = keep(store, source, b"a new image")
    assert store.find(KEY) == kept
    assert kept.image is not None
    assert Path(kept.image).read_bytes() == b"a new image"
    assert [path.name for path in (Path(store.folder) / "images").iterdir()] == [KEY.name]


def test_truncated_entry_at_every_offset(store: Store, source: Path) -> None:
    keep(store, source)
    path = place(store) / "entry"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert store.find(KEY) is None, size


def test_flipped_bits(store: Store, source: Path) -> None:
    """Each bit of an entry is under its checksum, or is the checksum."""
    keep(store, source)
    path = place(store) / "entry"
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 7):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert store.find(KEY) is None, bit


def test_random_damage_with_the_right_checksum(store: Store, source: Path) -> None:
    keep(store, source)
    path = place(store) / "entry"
    whole = path.read_bytes()
    pick = random.Random(0)
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(pick.randrange(1, 4)):
            value = pick.choice([0, 1, 7, 8, len(data), 1 << 31, pick.randrange(1 << 32)])
            struct.pack_into("<I", data, pick.randrange(16, len(data) - 4), value)
        path.write_bytes(signed(bytes(data)))
        found = store.find(KEY)
        assert found is None or found.image in (None, str(place(store) / "program"))
