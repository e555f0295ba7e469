"""Damaged entries: never used, never an exception, replaced by the next link."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from keeping import IMAGE, KEY, keep, place

from spidl.cache.store import Store, identity, key_of


def edit(store: Store, **values: object) -> None:
    path = place(store) / "entry.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def swap(store: Store) -> None:
    """The whole entry of another program, moved to this one's place."""
    other = key_of(["another"])
    entry = json.loads((place(store) / "entry.json").read_text())
    store.keep(other, "program", b"another image", inputs=entry["inputs"], absent=[])
    (place(store) / "entry.json").unlink()
    (place(store) / "program").unlink()
    place(store).rmdir()
    (Path(store.folder) / "images" / other).rename(place(store))


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
    "entry gone": lambda s: (place(s) / "entry.json").unlink(),
    "entry empty": lambda s: (place(s) / "entry.json").write_text(""),
    "entry not JSON": lambda s: (place(s) / "entry.json").write_bytes(b"\xff\0"),
    "entry deep": lambda s: (place(s) / "entry.json").write_text("[" * 200_000),
    "entry a list": lambda s: (place(s) / "entry.json").write_text("[]"),
    "entry a folder": lambda s: ((place(s) / "entry.json").unlink(),
                                 (place(s) / "entry.json").mkdir()),
    "another's entry": swap,
    "another key": lambda s: edit(s, key=key_of(["another"])),
    "no inputs": lambda s: edit(s, inputs={}),
    "inputs a list": lambda s: edit(s, inputs=[1]),
    "inputs odd": lambda s: edit(s, inputs={"/etc/passwd": None}),
    "inputs with a NUL": lambda s: edit(s, inputs={"a\0b": [1, 2, 3, 4, 5]}),
    "absent odd": lambda s: edit(s, absent=7),
    "absent not text": lambda s: edit(s, absent=[None]),
    "image elsewhere": lambda s: edit(s, image="/usr/bin/true",
                                      written=identity("/usr/bin/true")),
    "image above": lambda s: edit(s, image="../../../../../usr/bin/true",
                                  written=identity("/usr/bin/true")),
    "image a number": lambda s: edit(s, image=5),
    "image with a NUL": lambda s: edit(s, image="a\0b"),
    "no image, no refusal": lambda s: edit(s, image=None),
    "refusal odd": lambda s: edit(s, image=None, refusal="no"),
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
    assert [path.name for path in (Path(store.folder) / "images").iterdir()] == [KEY]


def test_truncated_entry_at_every_offset(store: Store, source: Path) -> None:
    keep(store, source)
    path = place(store) / "entry.json"
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert store.find(KEY) is None, size


def test_random_damage_never_raises(store: Store, source: Path) -> None:
    keep(store, source)
    path = place(store) / "entry.json"
    whole = path.read_bytes()
    pick = random.Random(0)
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(pick.randrange(1, 4)):
            data[pick.randrange(len(data))] = pick.choice(b'\0"{}[],:0129-eE\\x\xff')
        path.write_bytes(data)
        found = store.find(KEY)
        assert found is None or found.image == str(place(store) / "program")
