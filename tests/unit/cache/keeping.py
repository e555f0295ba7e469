"""One entry, as the tests of the cache keep it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from spidl.cache.entry import Input, Kept
from spidl.cache.identity import identity
from spidl.cache.store import Entry, Key, Store

KEY = Key("0123456789abcdef", b"a program")
OTHER = Key("fedcba9876543210", b"another program")
IMAGE = b"the image's bytes"


def keep(
    store: Store,
    source: Path,
    content: bytes | None = IMAGE,
    *,
    key: Key = KEY,
    name: str = "program",
    absent: Iterable[str] = (),
    message: str = "",
) -> Entry:
    found = identity(str(source))
    assert found is not None
    inputs = (Input(str(source), found), *(Input(path, None) for path in absent))
    words = (f"P{source}",)
    return store.keep(key, Kept(key.text, words, inputs, name, message), content)


def place(store: Store) -> Path:
    return Path(store.place(KEY))
