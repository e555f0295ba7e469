"""Images in a folder of the user's cache directory, private to the user.

An entry is a folder named by its key with the image (under the program's own name, which becomes
the process's comm) and ``entry.json``: the inputs that must be unchanged.  This file is on the way
of every `spidl run`: standard library only.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from spidl.diagnostics import LinkError, Place

Identity = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, mtime and ctime in nanoseconds."""

_ENTRY = "entry.json"
_NEW = ".new-"
_ABANDONED = 3600
"""Seconds after which an unfinished entry is one that its writer did not live to finish."""
_RENAMEAT2, _AT_FDCWD, _EXCHANGE = 316, -100, 2
"""The system call's number on x86-64, and <linux/fs.h>'s RENAME_EXCHANGE."""


def identity(path: str) -> Identity | None:
    """The identity of a file now; None when there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def cache_folder() -> str:
    """$SPIDL_CACHE, or spidl in $XDG_CACHE_HOME, or ~/.cache/spidl.

    Raises `LinkError` ``cache/no-home`` where none of them says a place.
    """
    chosen = os.environ.get("SPIDL_CACHE")
    if chosen:
        return os.path.abspath(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        raise LinkError(
            "cache/no-home",
            "there is no home folder to keep images in",
            help="set SPIDL_CACHE to a folder that you may write to",
        )
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
    """The entries of one cache folder.

    Trusted is only what nobody else could have put there: the folder and the entry belong to this
    user, no one else may write to either, and the image is the very file that was written.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder or cache_folder()
        self._images = os.path.join(self.folder, "images")

    def find(self, key: str) -> Entry | None:
        """A valid entry, or None: absent, stale, damaged, or not ours alone."""
        place = os.path.join(self._images, key)
        try:
            if not all(map(_is_private, (self.folder, self._images, place))):
                return None
            with open(os.path.join(place, _ENTRY), encoding="utf-8") as file:
                entry = json.load(file)
            if entry["key"] != key or not _unchanged(entry["inputs"], entry["absent"]):
                return None
            name, refusal = entry["image"], entry["refusal"]
            if name is None:
                return Entry(None, refusal) if isinstance(refusal, dict) else None
            image = os.path.join(place, name)
            # lstat: a link would lead to a file that somebody else may change.
            intact = os.path.basename(name) == name and stat.S_ISREG(os.lstat(image).st_mode)
            if not intact or tuple(entry["written"]) != identity(image):
                return None
            return Entry(image, None)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def prepare(self) -> None:
        """Make the folders.

        Raises `LinkError` ``cache/cannot-write``, and ``cache/not-private`` where others could
        change what is kept: their images would run with this user's rights.
        """
        try:
            os.makedirs(os.path.dirname(self.folder), exist_ok=True)
            for folder in (self.folder, self._images):
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700)
                if not _is_private(folder):
                    raise LinkError(
                        "cache/not-private",
                        "the cache folder belongs to another user, or others may write to it",
                        place=Place(folder),
                        help="chmod go-w it if it is yours, or set SPIDL_CACHE to one of your own",
                    )
        except (OSError, ValueError) as error:
            raise self._cannot_write(error) from None

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

        Raises `LinkError` as `prepare`.
        """
        import tempfile

        self.prepare()
        place = os.path.join(self._images, key)
        if name == _ENTRY:
            name += ".image"
        temporary = None
        try:
            self._sweep()
            temporary = tempfile.mkdtemp(prefix=_NEW, dir=self._images)
            written = None
            if content is not None:
                written = _write(os.path.join(temporary, name), content)
            entry = {
                "key": key,
                "image": None if content is None else name,
                "written": written,
                "inputs": inputs,
                "absent": list(absent),
                "refusal": refusal,
            }
            with open(os.path.join(temporary, _ENTRY), "w", encoding="utf-8") as text:
                json.dump(entry, text)
            _install(temporary, place)
        except (OSError, ValueError) as error:
            raise self._cannot_write(error) from None
        finally:
            if temporary is not None:
                _remove(temporary)
        return Entry(None if content is None else os.path.join(place, name), refusal)

    def _cannot_write(self, error: OSError | ValueError) -> LinkError:
        return LinkError(
            "cache/cannot-write",
            f"cannot keep the image: {getattr(error, 'strerror', None) or error}",
            place=Place(self._images),
            help="set SPIDL_CACHE to a folder that you may write to and that has room",
        )

    def _sweep(self) -> None:
        """Remove what a killed writer left behind, once no writer can still be at it."""
        for left in os.listdir(self._images):
            path = os.path.join(self._images, left)
            with suppress(FileNotFoundError):
                if left.startswith(_NEW) and time.time() - os.lstat(path).st_mtime > _ABANDONED:
                    _remove(path)


def _is_private(folder: str) -> bool:
    """Whether a folder is this user's and nobody else may write to it; OSError if there is none."""
    status = os.stat(folder)
    ours = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return ours and stat.S_ISDIR(status.st_mode)


def _unchanged(inputs: Mapping[str, Sequence[int]], absent: Sequence[str]) -> bool:
    return (
        len(inputs) > 0
        and all(tuple(expected) == identity(path) for path, expected in inputs.items())
        and not any(map(os.path.exists, absent))
    )


def _remove(path: str) -> None:
    """Remove an entry, or whatever has taken the place of one."""
    from shutil import rmtree

    with suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def _write(path: str, content: bytes | bytearray) -> Identity | None:
    """A new file, in one piece; what `identity` says of it from now on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        view = memoryview(content)
        while len(view):
            view = view[file.write(view) or 0 :]
    return identity(path)


def _install(temporary: str, place: str) -> None:
    """Put a finished entry in its place.

    An old entry changes places with it in one step (renameat2(2)): whoever is about to execute the
    image at that path finds one there, the old or the new.
    """
    try:
        os.rename(temporary, place)
    except OSError:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        paths = os.fsencode(temporary), os.fsencode(place)
        if libc.syscall(_RENAMEAT2, _AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _EXCHANGE):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number)) from None
