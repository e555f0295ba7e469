"""The ELF files in a Debian package (deb(5)): an ar archive of two tar archives."""

from __future__ import annotations

import hashlib
import importlib
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO

from spidl.diagnostics import LinkError, Place
from spidl.distribution.files import AR_MAGIC, HEAD, is_elf, names_of, unit_of
from spidl.distribution.values import Unit

_HEADER = 60
_LARGEST_CONTROL = 1 << 24
_PIECE = 1 << 20


def read_package(path: str, spool: str) -> list[Unit]:
    """The units of a package; their content is put into files of the folder ``spool``.

    Raises LinkError ``distribution/package`` for a damaged one, ``distribution/zstd``, and
    ``distribution/spool`` where the folder cannot be written.
    """
    try:
        with open(path, "rb") as file:
            name = ""
            for member, size in _members(file):
                part = _Part(file, size)
                if member.startswith("control.tar"):
                    name = _package_name(_tar(part, member, path))
                elif member.startswith("data.tar"):
                    return list(_units(_tar(part, member, path), name or path, path, spool))
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    raise _damaged(path, "it has no data.tar")


def _damaged(path: str, why: str) -> LinkError:
    return LinkError(
        "distribution/package", f"not a Debian package that can be read: {why}",
        place=Place(path), help="download it again; `dpkg-deb --contents` says more",
    )  # fmt: skip


class _Part(io.RawIOBase):
    """So many bytes of a file, from where it stands."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._file.read(min(len(buffer), self._left))
        buffer[: len(piece)] = piece
        self._left -= len(piece)
        return len(piece)


def _members(file: BinaryIO) -> Iterator[tuple[str, int]]:
    """(name, size in bytes) of the members of an ar archive, the file at the start of each."""
    if file.read(len(AR_MAGIC)) != AR_MAGIC:
        raise ValueError("it does not start like an ar archive")
    at = len(AR_MAGIC)
    while True:
        file.seek(at)
        header = file.read(_HEADER)
        if not header:
            return
        if len(header) < _HEADER or header[58:] != b"`\n":
            raise ValueError("it is truncated or no ar archive")
        size = int(header[48:58])
        if size < 0:
            raise ValueError("a member has a size below nothing")
        yield header[:16].decode("latin-1").rstrip().rstrip("/"), size
        at += _HEADER + size + size % 2


def _tar(part: _Part, member: str, path: str) -> tarfile.TarFile:
    """A tar archive that is read once from start to end, whatever compressed it."""
    source: Any = io.BufferedReader(part, _PIECE)
    if member.endswith(".zst"):
        source = _zstd(path).ZstdDecompressor().stream_reader(source)
        return tarfile.open(fileobj=source, mode="r|")
    return tarfile.open(fileobj=source, mode="r|*")


def _zstd(path: str) -> Any:
    try:
        return importlib.import_module("zstandard")
    except ImportError:
        raise LinkError(
            "distribution/zstd", "the package is compressed with zstd, which this Python cannot "
            "read", place=Place(path), help="pip install zstandard",
        ) from None  # fmt: skip


def _package_name(control: tarfile.TarFile) -> str:
    """The field Package of the file control (deb-control(5))."""
    for member in control:
        if os.path.basename(member.name) == "control" and member.isreg():
            source = control.extractfile(member)
            assert source is not None, "it is a regular file"
            for line in source.read(_LARGEST_CONTROL).decode(errors="replace").splitlines():
                key, _, value = line.partition(":")
                if key.lower() == "package":
                    return value.strip()
    return ""


def _units(data: tarfile.TarFile, package: str, path: str, spool: str) -> Iterator[Unit]:
    units = []
    links: dict[str, dict[str, str]] = {}
    for member in data:
        if member.issym() and ".so" in member.name:
            folder, base = os.path.split(_where(member))
            links.setdefault(folder, {})[base] = member.linkname
        if not member.isreg() or member.size < HEAD:
            continue
        source = data.extractfile(member)
        assert source is not None, "it is a regular file"
        head = source.read(HEAD)
        if not is_elf(head):
            continue
        where = _where(member)
        kept = os.path.join(spool, hashlib.sha256(f"{path}\0{where}".encode(
            errors="surrogateescape")).hexdigest())  # fmt: skip
        _keep(kept, head, source)
        unit = unit_of(package, where, kept, member.size)
        if unit is None:
            os.unlink(kept)
        else:
            units.append(unit)
    names = {folder: names_of(found) for folder, found in links.items()}
    for unit in units:  # links may come behind their file
        folder, base = os.path.split(unit.path)
        yield replace(unit, links=tuple(names.get(folder, {}).get(base, ())))


def _where(member: tarfile.TarInfo) -> str:
    """The path where a member is installed."""
    return f"/{member.name.removeprefix('.').lstrip('/')}"


def _keep(kept: str, head: bytes, source: Any) -> None:
    try:
        file = open(kept, "wb")  # noqa: SIM115  (it is closed below; opening has its own message)
    except OSError as error:
        raise _no_room(kept, error) from None
    with file:
        piece = head
        while piece:
            try:
                file.write(piece)
            except OSError as error:
                raise _no_room(kept, error) from None
            piece = source.read(_PIECE)


def _no_room(kept: str, error: OSError) -> LinkError:
    return LinkError(
        "distribution/spool", f"cannot unpack here: {error.strerror}", place=Place(kept),
        help="TMPDIR names a folder with more room",
    )  # fmt: skip
