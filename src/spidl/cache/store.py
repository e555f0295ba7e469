"""Images in a folder of the user's cache directory, private to the user.

An entry is a folder named by its key with the image (under the program's own name, which becomes
the process's comm) and ``entry.json``: the inputs that must be unchanged.  This file is on the way
of every `spidl run`: standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from spidl.diagnostics import LinkError, Place

Identity = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, mtime and ctime in nanoseconds."""


def identity(path: str) -> Identity | None:
    """The identity of a file now; None when there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def cache_folder() -> str:
    """$SPIDL_CACHE, or spidl in $XDG_CACHE_HOME, or ~/.cache/spidl."""
    chosen = os.environ.get("SPIDL_CACHE")
    if chosen:
        return chosen
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "spidl")


def key_of(parts: Iterable[str]) -> str:
    """The name of an entry: a hash of everything that selects it."""
    import hashlib

    digest = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of a link: an image, or why there is none."""

    image: str | None
    refusal: dict[str, object] | None


class Store:
    """The entries of one cache folder."""

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder or cache_folder()

    def _place(self, key: str) -> str:
        return os.path.join(self.folder, "images", key)

    def find(self, key: str) -> Entry | None:
        """A valid entry, or None: absent, stale, damaged, or not ours alone."""
        place = self._place(key)
        try:
            status = os.lstat(place)
            if status.st_uid != os.geteuid() or status.st_mode & 0o077:
                return None
            with open(os.path.join(place, "entry.json"), encoding="utf-8") as file:
                entry = json.load(file)
            if not self._valid(entry):
                return None
            image = entry["image"]
            if image is not None:
                image = os.path.join(place, image)
                if list(identity(image) or ())[2:3] != [entry["size"]]:
                    return None
            return Entry(image, entry["refusal"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _valid(self, entry: Mapping[str, object]) -> bool:
        inputs, absent = entry["inputs"], entry["absent"]
        if not isinstance(inputs, dict) or not isinstance(absent, list):
            return False
        return all(
            tuple(expected) == identity(path) for path, expected in inputs.items()
        ) and not any(os.path.exists(path) for path in absent)

    def keep(
        self,
        key: str,
        name: str,
        content: bytes | bytearray | None,
        *,
        inputs: Mapping[str, Identity],
        absent: Iterable[str],
        refusal: dict[str, object] | None = None,
    ) -> Entry:
        """Write an entry whole or not at all; a concurrent writer of the same key may win.

        Raises `LinkError` ``cache/cannot-write``.
        """
        import tempfile
        from shutil import rmtree

        place = self._place(key)
        parent = os.path.dirname(place)
        temporary = None
        try:
            os.makedirs(parent, mode=0o700, exist_ok=True)
            os.chmod(self.folder, 0o700)
            temporary = tempfile.mkdtemp(prefix=".new-", dir=parent)
            if content is not None:
                descriptor = os.open(
                    os.path.join(temporary, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700
                )
                with os.fdopen(descriptor, "wb", buffering=0) as file:
                    view = memoryview(content)
                    while len(view):
                        view = view[file.write(view) or 0 :]
            entry = {
                "image": None if content is None else name,
                "size": None if content is None else len(content),
                "inputs": inputs,
                "absent": list(absent),
                "refusal": refusal,
            }
            with open(os.path.join(temporary, "entry.json"), "w", encoding="utf-8") as text:
                json.dump(entry, text)
            self._install(temporary, place)
        except OSError as error:
            raise LinkError(
                "cache/cannot-write",
                f"cannot keep the image: {error.strerror}",
                place=Place(parent),
                help="set SPIDL_CACHE to a folder that you may write to and that has room",
            ) from None
        finally:
            if temporary is not None and os.path.isdir(temporary):
                rmtree(temporary, ignore_errors=True)
        return Entry(None if content is None else os.path.join(place, name), refusal)

    def _install(self, temporary: str, place: str) -> None:
        """Put a finished entry in its place; the old one goes aside first, then away."""
        import tempfile
        from shutil import rmtree

        for _ in range(3):
            try:
                os.rename(temporary, place)
                return
            except OSError:
                aside = tempfile.mkdtemp(prefix=".old-", dir=os.path.dirname(place))
                try:
                    os.rename(place, os.path.join(aside, "entry"))
                except OSError:
                    pass
                finally:
                    rmtree(aside, ignore_errors=True)
        os.rename(temporary, place)
