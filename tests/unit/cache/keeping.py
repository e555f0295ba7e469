"""One entry, as the tests of the cache keep it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spidl.cache.store import Entry, Store, identity, key_of

KEY = key_of(["a", "program"])
IMAGE = b"the image's bytes"


def keep(store: Store, source: Path, content: bytes | None = IMAGE, **more: Any) -> Entry:
    found = identity(str(source))
    assert found is not None
    options = {"inputs": {str(source): found}, "absent": [], **more}
    return store.keep(KEY, "program", content, **options)


def place(store: Store) -> Path:
    return Path(store.folder) / "images" / KEY
