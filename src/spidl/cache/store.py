"""Images in a folder of the user's cache directory, private to the user.

An entry is a folder named by its key with the image (under the program's own name, which becomes
the process's comm) and ``entry``, the inputs that must be unchanged.  The launcher reads the same
files (launcher/entry.c).  On the way of every link: standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from spidl.cache.entry import Damaged, Kept, Mark, checksum, decode, encode
from spidl.cache.identity import Identity, identity
from spidl.cache.locking import open_lock, wait_for
from spidl.cache.private import is_ours, is_private, reached_by_others
from spidl.diagnostics import LinkError, Place

_ENTRY = "entry"
NEW, LOCK = ".new-", "lock"
"""What the names of unfinished entries begin with; the file that is locked."""
_ABANDONED = 3600
"""Seconds after which an unfinished entry is one that its writer did not live to finish."""
_RENAMEAT2, _AT_FDCWD, _EXCHANGE = 316, -100, 2
"""The system call's number on x86-64, and <linux/fs.h>'s RENAME_EXCHANGE."""
_LOCKABLE = 15
"""Hexadecimal digits of a key's name that are the offset of its byte in the lock file."""
_LARGEST = 1 << 24


@dataclass(frozen=True, slots=True)
class Key:
    """What selects an entry: the text says it all, the name is its hash."""

    name: str
    text: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of a link: an image, or why there is none."""

    image: str | None
    kept: Kept
    sum: str = ""
    """The entry's checksum in hexadecimal: two links of one request differ in it."""

    @property
    def is_error(self) -> bool:
        """Whether the link failed, by whosoever's fault."""
        return bool(self.kept.marks & Mark.ERROR)


@dataclass(frozen=True, slots=True)
class Stored:
    """One folder among the images, whatever is in it."""

    name: str
    folder: str
    kept: Kept | None
    """None where it is damaged, or of another version."""
    size: int
    """Bytes on disk."""
    used: float
    """Seconds since 1970, to the hour."""
    fault: str = ""
    """Why `kept` is None."""


def cache_folder() -> str:
    """$SPIDL_CACHE, or spidl in $XDG_CACHE_HOME, or ~/.cache/spidl (launcher/request.c).

    Raises `LinkError` ``cache/no-home`` where none of them says a place.
    """
    chosen = os.environ.get("SPIDL_CACHE")
    if chosen:
        return os.path.abspath(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", ""), ".cache")
    if not os.path.isabs(base):
        raise LinkError(
            "cache/no-home",
            "there is no home folder to keep images in",
            help="set SPIDL_CACHE to a folder that you may write to",
        )
    return os.path.join(base, "spidl")


class Store:
    """The entries of one cache folder.

    Trusted is only what nobody else could have put there: the folder and the entry belong to this
    user, no one else may write to either, and the image is the very file that was written.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder or cache_folder()
        self.images = os.path.join(self.folder, "images")

    def place(self, key: Key) -> str:
        """The folder of an entry, there or not."""
        return os.path.join(self.images, key.name)

    def find(self, key: Key) -> Entry | None:
        """A valid entry, or None: absent, stale, damaged, or not ours alone."""
        place = self.place(key)
        try:
            if not all(map(is_private, (self.folder, self.images))):
                return None
            entry = _read(place)
        except (OSError, ValueError):
            return None
        if entry.kept.key != key.text or not entry.kept.inputs or first_change(entry.kept):
            return None
        return entry

    def entries(self) -> Iterator[Stored]:
        """All of them, damaged and foreign ones too.  Raises `LinkError` as `prepare`."""
        try:
            with os.scandir(self.images) as found:
                names = sorted(item.name for item in found)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._cannot_write(error) from None
        for name in names:
            yield self._stored(name)

    def look(self, key: Key) -> Stored | None:
        """The entry of a key whatever its state; None where there is none."""
        return self._stored(key.name) if os.path.lexists(self.place(key)) else None

    def _stored(self, name: str) -> Stored:
        folder = os.path.join(self.images, name)
        kept, used, size, fault = None, 0.0, 0, ""
        with suppress(OSError):
            used = os.lstat(folder).st_mtime
            size = sum(item.stat(follow_symlinks=False).st_blocks * 512 for item in _files(folder))
        try:
            used = os.stat(os.path.join(folder, _ENTRY)).st_mtime
            kept = _read(folder).kept
        except OSError as error:
            fault = f"it cannot be read: {error.strerror}"
        except ValueError as error:
            fault = str(error)
        return Stored(name, folder, kept, size, used, fault)

    def prepare(self) -> None:
        """Make the folders.

        Raises `LinkError` ``cache/cannot-write``, and ``cache/not-private`` where others could
        change what is kept: their images would run with this user's rights.
        """
        try:
            home = os.path.join(os.environ.get("HOME", ""), "")
            if self.folder.startswith(home) and not os.path.isdir(home or "/"):
                raise FileNotFoundError(errno.ENOENT, f"there is no home folder {home}")
            other = reached_by_others(self.folder)
            if other is not None:
                raise LinkError(
                    "cache/not-private",
                    "another user could put a folder of his own in the cache's place",
                    place=Place(other),
                    notes=(f"the cache is {self.folder}",),
                    help="set SPIDL_CACHE to a folder in one of your own",
                )
            os.makedirs(os.path.dirname(self.folder), exist_ok=True)
            for folder in (self.folder, self.images):
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700)
                if not is_private(folder):
                    raise LinkError(
                        "cache/not-private",
                        "the cache folder belongs to another user, or others may write to it",
                        place=Place(folder),
                        help="chmod go-w it if it is yours, or set SPIDL_CACHE to one of your own",
                    )
        except (OSError, ValueError, RecursionError) as error:
            raise self._cannot_write(error) from None

    @contextmanager
    def lock(self, key: Key) -> Iterator[None]:
        """One process at a time links what the key selects; the launcher asks whether one does.

        A byte of one file, which the kernel frees however the process ends.  A second lock in the
        same process would end the first.  Raises `LinkError` as `prepare`.
        """
        file = self._lock_file()
        try:
            wait_for(file, _offset(key.name), self.place(key))
            yield
        finally:
            os.close(file)

    @contextmanager
    def claim(self, name: str | None = None) -> Iterator[bool]:
        """`lock` without waiting, for an entry's name or (None) for all there may ever be.

        Gives whether nobody links it now; raises as `lock`.
        """
        file = self._lock_file()
        claimed = True
        try:
            try:
                place = (0, 0) if name is None else (1, _offset(name))
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *place)
            except OSError as error:
                claimed = error.errno not in (errno.EAGAIN, errno.EACCES)
            yield claimed
        finally:
            os.close(file)

    def note_failure(self) -> None:
        """Tell the launcher, by the lock file's time, not to try again at every start."""
        with suppress(OSError):
            os.utime(os.path.join(self.folder, LOCK))

    def _lock_file(self) -> int:
        self.prepare()
        try:
            return open_lock(os.path.join(self.folder, LOCK))
        except OSError as error:
            raise self._cannot_write(error) from None

    def keep(self, key: Key, kept: Kept, content: bytes | bytearray | None) -> Entry:
        """Write an entry whole or not at all; a concurrent writer of the same key may win.

        ``kept`` need not have ``written`` and ``digest``.  Raises `LinkError` as `prepare`.
        """
        import hashlib
        import tempfile

        self.prepare()
        place = self.place(key)
        name = None if content is None else (kept.image or "image")
        if name == _ENTRY:
            name += ".image"
        temporary = None
        try:
            self._sweep()
            temporary = tempfile.mkdtemp(prefix=NEW, dir=self.images)
            written, digest = None, bytes(32)
            if content is not None and name is not None:
                written = _write(os.path.join(temporary, name), content, 0o700)
                digest = hashlib.sha256(content).digest()
            kept = replace(kept, key=key.text, image=name, written=written, digest=digest)
            data = encode(kept)
            _write(os.path.join(temporary, _ENTRY), data, 0o600)
            _install(temporary, place)
        except (OSError, ValueError) as error:
            raise self._cannot_write(error) from None
        finally:
            if temporary is not None:
                remove_tree(temporary)
        return Entry(None if name is None else os.path.join(place, name), kept, _sum(data))

    def _cannot_write(self, error: OSError | ValueError | RecursionError) -> LinkError:
        return LinkError(
            "cache/cannot-write",
            f"cannot keep the image: {getattr(error, 'strerror', None) or error}",
            place=Place(self.images),
            help="set SPIDL_CACHE to a folder that you may write to and that has room",
        )

    def _sweep(self) -> None:
        """Remove what a killed writer left behind, once no writer can still be at it."""
        for left in os.listdir(self.images):
            path = os.path.join(self.images, left)
            if is_leftover(path):
                remove_tree(path)


def first_change(kept: Kept) -> str | None:
    """The first input that is not as it was."""
    for given in kept.inputs:
        if given.identity is None:
            if os.path.exists(given.path):
                return given.path
        elif identity(given.path) != given.identity:
            return given.path
    return None


def is_entry_name(name: str) -> bool:
    """Whether a folder of this name among the images is an entry, or was one."""
    return len(name) == 16 and not set(name) - set("0123456789abcdef")


def is_leftover(path: str) -> bool:
    """Whether a killed writer left this, and no writer can still be at it."""
    try:
        age = time.time() - os.lstat(path).st_mtime
    except OSError:
        return False
    return os.path.basename(path).startswith(NEW) and age > _ABANDONED


def remove_tree(path: str) -> None:
    """Remove an entry, or whatever has taken the place of one."""
    from shutil import rmtree

    with suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def _read(folder: str) -> Entry:
    """The entry in a folder, its inputs not looked at.  Raises OSError, `Damaged`."""
    if os.path.islink(folder) or not is_private(folder):
        raise Damaged("not private")
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO has no other end
    file = os.open(os.path.join(folder, _ENTRY), flags)
    with os.fdopen(file, "rb") as stream:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or not is_ours(status) or status.st_size > _LARGEST:
            raise Damaged("not private, or not a file")
        data = stream.read()
    kept = decode(data)
    if kept.image is None:
        return Entry(None, kept, _sum(data))
    image = os.path.join(folder, kept.image)
    # lstat: a link would lead to a file that somebody else may change.
    intact = os.path.basename(image) == kept.image and stat.S_ISREG(os.lstat(image).st_mode)
    if not intact or kept.written != identity(image) or not is_ours(os.lstat(image)):
        raise Damaged("not the image that was written")
    return Entry(image, kept, _sum(data))


def _offset(name: str) -> int:
    """The place of an entry's byte in the lock file (launcher/start.c)."""
    return int(name[:_LOCKABLE], 16)


def _sum(data: bytes) -> str:
    return f"{checksum(data):016x}"


def _files(folder: str) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return list(found)


def _write(path: str, content: bytes | bytearray, mode: int) -> Identity | None:
    """A new file, in one piece; what `identity` says of it from now on."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, mode), "wb", buffering=0) as file:
        os.fchmod(file.fileno(), mode)
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
