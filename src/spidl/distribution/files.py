"""The ELF files of a folder tree, and what a look at each tells."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from spidl.diagnostics import LinkError, Place
from spidl.distribution.values import Unit
from spidl.elf import (
    ELFCLASS64,
    ELFDATA2LSB,
    ELFMAG,
    EM_X86_64,
    ET,
    PF,
    ElfFile,
)

HEAD = 64
"""Bytes of an ELF64 header (gABI 4)."""
AR_MAGIC = b"!<arch>\n"
"""Of an ar archive (ar(5)), which a Debian package is."""
_DF_1_PIE = 0x0800_0000
"""The linker's mark of a position-independent program (<elf.h>)."""
_CHAIN = 8
"""Links that lead to links: more do not happen, fewer than the kernel follows."""
_DPKG = "var/lib/dpkg/info"


@dataclass(frozen=True, slots=True)
class Found:
    """A file that a walk found."""

    path: str
    is_package: bool
    size: int
    mtime_ns: int
    links: tuple[str, ...] = ()
    """Symbolic links to it in its folder; see `Unit.links`."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is kept about a file beside its summary; fields as in `Unit`."""

    build_id: str
    soname: str
    is_program: bool
    runpath: tuple[str, ...]


def walk(folder: str) -> Iterator[Found]:
    """The x86-64 ELF files and the Debian packages under a folder, by path, each inode once.

    Symbolic links are not followed, other file systems not entered; what cannot be read inside
    is left out.  Raises LinkError ``distribution/no-folder``.
    """
    try:
        device = os.stat(folder).st_dev
        os.scandir(folder).close()
    except (OSError, ValueError) as error:
        raise LinkError(
            "distribution/no-folder",
            f"cannot look into the folder: {getattr(error, 'strerror', None) or error}",
            place=Place(folder),
            help="give a folder with ELF files or with .deb files",
        ) from None
    seen: set[int] = set()
    waiting = [os.path.abspath(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as items:
                entries = sorted(items, key=lambda item: item.name)
        except OSError:
            continue
        folders = []
        links = names_of({entry.name: os.readlink(entry.path) for entry in entries
                          if entry.is_symlink() and ".so" in entry.name})  # fmt: skip
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if status.st_dev != device or status.st_ino in seen:
                continue
            if stat.S_ISDIR(status.st_mode):
                seen.add(status.st_ino)
                folders.append(entry.path)
            elif stat.S_ISREG(status.st_mode) and status.st_size >= HEAD:
                head = _head(entry.path)
                is_package = head.startswith(AR_MAGIC) and entry.name.endswith((".deb", ".udeb"))
                if is_package or is_elf(head):
                    seen.add(status.st_ino)
                    yield Found(entry.path, is_package, status.st_size, status.st_mtime_ns,
                                tuple(links.get(entry.name, ())))  # fmt: skip
        waiting += reversed(folders)


def names_of(links: Mapping[str, str]) -> dict[str, list[str]]:
    """Name of a file to the links that lead to it inside one folder, from name to target."""
    found: dict[str, list[str]] = {}
    for name in sorted(links):
        target = name
        for _ in range(_CHAIN):
            target = links.get(target, target)
        found.setdefault(target, []).append(name)
    return found


def _head(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return b""
    try:
        return os.read(descriptor, HEAD)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def is_elf(head: bytes) -> bool:
    """Whether the first `HEAD` bytes are those of an x86-64 program or shared object."""
    if len(head) < HEAD or head[:4] != ELFMAG or head[4] != ELFCLASS64 or head[5] != ELFDATA2LSB:
        return False
    kind, machine = struct.unpack_from("<HH", head, 16)
    return kind in (ET.EXEC, ET.DYN) and machine == EM_X86_64


def look(file: ElfFile) -> Look | None:
    """What is kept about a file; None for one without code, such as detached debug information.

    Raises LinkError ``parse/...``.
    """
    if not any(load.filesz and load.flags & PF.X for load in file.loads):
        return None
    runpath = file.runpath if file.runpath is not None else file.rpath
    # libc.so.6 and others can be started too, but are linked to: they have a soname.
    is_program = (
        file.type == ET.EXEC
        or bool(file.flags_1 & _DF_1_PIE)
        or (file.interp is not None and file.soname is None)
    )
    folders = tuple(filter(None, (runpath or "").split(":")))
    return Look(identity(file), file.soname or "", is_program, folders)


def identity(file: ElfFile) -> str:
    """`Unit.build_id` of a file."""
    found = file.build_id
    return found.hex() if found else f"sha256:{hashlib.sha256(file.data.data).hexdigest()}"


def unit_of(
    package: str, path: str, content: str, size: int, links: tuple[str, ...] = ()
) -> Unit | None:
    """The unit of a file that can be read at ``content``; None where `look` gives None.

    A file that cannot be parsed has one too: analysing it tells what is wrong.  Raises OSError
    where it cannot be read.
    """
    try:
        found = look(ElfFile.open(content))
    except LinkError as error:
        if error.code.startswith(("parse/not-", "parse/no-", "parse/cannot-")):
            raise OSError(error.diagnostic.message) from None
        with open(content, "rb") as damaged:
            digest = hashlib.file_digest(damaged, "sha256").hexdigest()
        found = Look(f"sha256:{digest}", "", False, ())
    if found is None:
        return None
    return Unit(
        package, path, found.build_id, found.soname, links, found.is_program, found.runpath,
        content, size,
    )  # fmt: skip


class Root:
    """Where the paths of a folder begin, and which package owns which."""

    def __init__(self, folder: str) -> None:
        """A folder with dpkg's lists is a root of its own, every other one belongs to ``/``."""
        folder = os.path.abspath(folder)
        self.folder = folder if os.path.isdir(os.path.join(folder, _DPKG)) else "/"

    @cached_property
    def _owners(self) -> dict[str, str]:
        return _owners(self.folder)

    def path_of(self, found: str) -> str:
        """The path inside the distribution."""
        return f"/{os.path.relpath(found, self.folder)}"

    def package_of(self, path: str) -> str:
        """The owner of a path inside the distribution; the path itself where it has none."""
        return self._owners.get(merged(path), path)


def merged(path: str) -> str:
    """A path as it is where ``/bin``, ``/lib`` and the like are links into ``/usr``."""
    return f"/usr{path}" if path.startswith(("/bin/", "/sbin/", "/lib/", "/lib64/")) else path


def _owners(root: str) -> dict[str, str]:
    """Path to package, as dpkg keeps it (dpkg(1), ``info/PACKAGE.list``)."""
    folder = os.path.join(root, _DPKG)
    owners: dict[str, str] = {}
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return owners
    for name in names:
        if not name.endswith(".list"):
            continue
        package = name.removesuffix(".list").partition(":")[0]
        try:
            with open(os.path.join(folder, name), encoding="utf-8", errors="surrogateescape") as f:
                owners |= {merged(line.rstrip("\n")): package for line in f}
        except OSError:
            continue
    return owners
