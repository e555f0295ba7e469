"""The store of many machines: a folder of any file system that fsspec knows, an object per file.

Nobody needs a lock: an object's name is the build-id, its content does not depend on who wrote it,
and it appears whole or not at all.  `collect` brings everything into a `Store`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import posixpath
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from spidl.diagnostics import Diagnostic, LinkError, Place
from spidl.distribution.store import Store
from spidl.distribution.values import Outcome, Unit

_RENAMES = frozenset({"file", "local", "sftp", "ssh", "smb", "hdfs", "webhdfs"})
"""Protocols of file systems with a rename, where a reader can see half a file.  In the others
(object stores, memory) a file is there when it is whole."""
_FILES = "files"
_OBJECTS = "objects"
_SUFFIX = ".summary"
_FAILED = ".failure"


def is_url(store: str) -> bool:
    """Whether a store is named by a URL, not by a path."""
    return "://" in store


class Objects:
    """A `Sink` in a folder that a URL names, such as ``s3://bucket/folder``.

    Every method raises LinkError ``distribution/url`` where the folder cannot be used.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._now = time.time_ns()
        self._rows: dict[str, list[Unit]] = {}
        try:
            fsspec = importlib.import_module("fsspec")
        except ImportError:
            raise LinkError(
                "distribution/url", "a store with a URL needs fsspec", place=Place(url),
                help="pip install 'spidl[distribution]', or give the path of a file",
            ) from None  # fmt: skip
        try:
            self._system, self._folder = fsspec.core.url_to_fs(url)
        except Exception as error:  # what it raises is each file system's own
            raise self._wrong(error) from None

    def _wrong(self, error: Exception) -> LinkError:
        return LinkError(
            "distribution/url", f"cannot use the store: {type(error).__name__}: {error}",
            place=Place(self.url), help="check the URL, its permissions and that the package for "
            "its protocol is installed",
        )  # fmt: skip

    def _path(self, *parts: str) -> str:
        return posixpath.join(self._folder, *parts)

    def _write(self, path: str, content: bytes) -> None:
        try:
            folder = posixpath.dirname(path)
            protocols = self._system.protocol
            names = {protocols} if isinstance(protocols, str) else set(protocols)
            self._system.makedirs(folder, exist_ok=True)
            if names & _RENAMES:
                temporary = posixpath.join(folder, f".{os.urandom(8).hex()}")
                self._system.pipe_file(temporary, content)
                self._system.mv(temporary, path)
            else:
                self._system.pipe_file(path, content)
        except Exception as error:  # what it raises is each file system's own
            raise self._wrong(error) from None

    def _list(self, folder: str) -> list[str]:
        """Paths of all files under a folder, temporary ones left out."""
        try:
            found: list[str] = self._system.find(self._path(folder))
        except FileNotFoundError:
            return []
        except Exception as error:  # what it raises is each file system's own
            raise self._wrong(error) from None
        return sorted(path for path in found if not posixpath.basename(path).startswith("."))

    def _read(self, path: str) -> bytes:
        try:
            content: bytes = self._system.cat_file(path)
        except Exception as error:  # what it raises is each file system's own
            raise self._wrong(error) from None
        return content

    # -- the sink --------------------------------------------------------------------------------

    def known(self, version: int, *, failures: bool = True) -> set[str]:
        """See `Sink.known`."""
        suffixes = (_SUFFIX, _FAILED) if failures else (_SUFFIX,)
        return {
            build_id
            for path in self._list(_folder(version))
            for build_id, suffix in [posixpath.splitext(posixpath.basename(path))]
            if suffix in suffixes
        }

    def put(self, outcome: Outcome) -> None:
        """See `Sink.put`."""
        suffix = _FAILED if outcome.summary is None else _SUFFIX
        self._write(self._path(_folder(outcome.version), f"{outcome.build_id}{suffix}"),
                    _packed(outcome))  # fmt: skip

    def add(self, origin: str, units: list[Unit]) -> None:
        """See `Sink.add`; they are written by `settle`."""
        self._rows.setdefault(origin, []).extend(units)

    def has_archive(self, path: str, size: int, mtime_ns: int, version: int) -> bool:
        """See `Sink.has_archive`: packages are unpacked again, their files not analysed again."""
        return False

    def add_archive(
        self, path: str, size: int, mtime_ns: int, units: list[Unit], error: Diagnostic | None
    ) -> None:
        """See `Sink.add_archive`."""
        self.add(path, units)

    def settle(self, folder: str, archives: set[str]) -> None:
        """See `Sink.settle`."""
        rows = [[origin, self._now, asdict(unit)] for origin, units in self._rows.items()
                for unit in units]  # fmt: skip
        name = hashlib.sha256(folder.encode(errors="surrogateescape")).hexdigest()
        self._write(self._path(_FILES, f"{name}.json"), json.dumps(rows).encode())

    # -- into one store --------------------------------------------------------------------------

    def collect(self, store: Store) -> list[str]:
        """Bring everything into a store; gives the paths of damaged objects, which are left out."""
        damaged: list[str] = []
        store.take(self._outcomes(damaged), self._files(damaged))
        return damaged

    def _outcomes(self, damaged: list[str]) -> Iterator[Outcome]:
        for path in self._list(_OBJECTS):
            try:
                yield _unpacked(self._read(path))
            except (ValueError, TypeError, LookupError):
                damaged.append(path)

    def _files(self, damaged: list[str]) -> Iterator[tuple[str, int, Unit]]:
        for path in self._list(_FILES):
            try:
                for origin, seen, unit in json.loads(self._read(path)):
                    yield str(origin), int(seen), _unit(unit)
            except (ValueError, TypeError, LookupError):
                damaged.append(path)


def _folder(version: int) -> str:
    return posixpath.join(_OBJECTS, f"v{version}")


def _packed(outcome: Outcome) -> bytes:
    """A line of JSON, then the summary; the line has the digest of the summary."""
    summary = outcome.summary or b""
    head = asdict(outcome) | {"summary": hashlib.sha256(summary).hexdigest()}
    return json.dumps(head).encode() + b"\n" + summary


def _unpacked(content: bytes) -> Outcome:
    """Raises ValueError, TypeError or LookupError for other bytes than `_packed`'s."""
    line, _, summary = content.partition(b"\n")
    head: dict[str, Any] = dict(json.loads(line))
    if head.pop("summary") != hashlib.sha256(summary).hexdigest():
        raise ValueError("the summary is damaged")
    failed = head["error"] is not None
    return Outcome(
        str(head["build_id"]), int(head["version"]), None if failed else summary,
        float(head["seconds"]), str(head["error"]) if failed else None,
    )  # fmt: skip


def _unit(row: Any) -> Unit:
    """Raises ValueError, TypeError or LookupError for other values than `settle`'s."""
    found: dict[str, Any] = dict(row)
    return Unit(
        package=str(found["package"]), path=str(found["path"]), build_id=str(found["build_id"]),
        soname=str(found["soname"]), links=tuple(map(str, found["links"])),
        is_program=bool(found["is_program"]),
        runpath=tuple(map(str, found["runpath"])), content=str(found["content"]),
        size=int(found["size"]),
    )  # fmt: skip
