"""The store of one machine: an SQLite file with summaries, and where their files are installed.

Two stores merge into the same one in any order and however often: an object's row does not depend
on who made it, and of two rows about one path the later one wins.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from spidl.diagnostics import Diagnostic, LinkError, Place
from spidl.distribution.values import Outcome, Unit

_APPLICATION = 0x5350_444C
"""PRAGMA application_id: how a store is told from other SQLite files."""
_LAYOUT = 1
_PATIENCE = 60.0
"""Seconds to wait for another process that writes."""
_SCHEMA = """
CREATE TABLE objects (
    build_id TEXT PRIMARY KEY, version INTEGER NOT NULL, summary BLOB, error TEXT,
    seconds REAL NOT NULL, made REAL NOT NULL
);
CREATE TABLE files (
    package TEXT NOT NULL, path TEXT NOT NULL, build_id TEXT NOT NULL, soname TEXT NOT NULL,
    links TEXT NOT NULL, program INTEGER NOT NULL, runpath TEXT NOT NULL, origin TEXT NOT NULL,
    seen INTEGER NOT NULL,
    PRIMARY KEY (package, path)
) WITHOUT ROWID;
CREATE INDEX files_origin ON files (origin);
CREATE TABLE archives (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, error TEXT,
    seen INTEGER NOT NULL
) WITHOUT ROWID;
"""
_TAKE_OBJECTS = """
INSERT INTO main.objects SELECT * FROM other.objects WHERE true
ON CONFLICT (build_id) DO UPDATE SET
    version = excluded.version, summary = excluded.summary, error = excluded.error,
    seconds = excluded.seconds, made = excluded.made
WHERE (excluded.version, excluded.summary IS NOT NULL, coalesce(excluded.error, ''))
    > (version, summary IS NOT NULL, coalesce(error, ''))
"""
"""A newer analyser wins over an older one, a summary over a failure, then any fixed order."""
_TAKE_FILES = """
INSERT INTO main.files SELECT * FROM other.files WHERE true
ON CONFLICT (package, path) DO UPDATE SET
    build_id = excluded.build_id, soname = excluded.soname, links = excluded.links,
    program = excluded.program,
    runpath = excluded.runpath, origin = excluded.origin, seen = excluded.seen
WHERE (excluded.seen, excluded.build_id, excluded.origin) > (seen, build_id, origin)
"""
_TAKE_ARCHIVES = """
INSERT INTO main.archives SELECT * FROM other.archives WHERE true
ON CONFLICT (path) DO UPDATE SET
    size = excluded.size, mtime_ns = excluded.mtime_ns, error = excluded.error,
    seen = excluded.seen
WHERE (excluded.seen, excluded.mtime_ns, excluded.size) > (seen, mtime_ns, size)
"""
_UNFINISHED = """
SELECT 1 FROM files LEFT JOIN objects USING (build_id)
WHERE origin = ? AND version IS NOT ? LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class File:
    """A row about an installed file; fields as in `Unit`."""

    package: str
    path: str
    build_id: str
    soname: str
    links: tuple[str, ...]
    is_program: bool
    runpath: tuple[str, ...]


class Store:
    """A `Sink` in one file of this machine.

    Every method raises LinkError ``distribution/store`` for a file that is damaged, no store or
    cannot be written, and ``distribution/locked`` where another process writes for a minute.
    """

    def __init__(self, path: str, *, create: bool = True) -> None:
        """Open a store; one that is not there is made if ``create``."""
        self.path = path
        if not create and not os.path.exists(path):
            raise LinkError(
                "distribution/store", "there is no store", place=Place(path),
                help="`spidl analyse --all FOLDER --store FILE` makes one",
            )  # fmt: skip
        self._now = time.time_ns()
        with self._told():
            self._base = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
        try:
            with self._told():
                self._prepare()
        except LinkError:
            self._base.close()
            raise

    def _prepare(self) -> None:
        with self._writing():
            found = self._value("PRAGMA application_id"), self._value("PRAGMA user_version")
            if found == (0, 0) and not self._value("SELECT count(*) FROM sqlite_master"):
                for statement in _SCHEMA.split(";"):
                    self._base.execute(statement)
                self._base.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._base.execute(f"PRAGMA user_version = {_LAYOUT}")
            elif found != (_APPLICATION, _LAYOUT):
                raise sqlite3.DatabaseError("it is a database of something else, or too new")
        # Readers and a writer side by side; a power cut may take the last rows, a kill does not.
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = NORMAL")

    def close(self) -> None:
        """Give the file back."""
        with self._told():
            self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the sink --------------------------------------------------------------------------------

    def known(self, version: int, *, failures: bool = True) -> set[str]:
        """See `Sink.known`."""
        query = "SELECT build_id FROM objects WHERE version = ? AND (summary IS NOT NULL OR ?)"
        with self._told():
            return {row[0] for row in self._base.execute(query, (version, failures))}

    def put(self, outcome: Outcome) -> None:
        """See `Sink.put`."""
        row = (outcome.build_id, outcome.version, outcome.summary, outcome.error, outcome.seconds,
               time.time())  # fmt: skip
        with self._told():
            self._base.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?)", row)

    def add(self, origin: str, units: list[Unit]) -> None:
        """See `Sink.add`."""
        with self._told(), self._writing():
            self._add(origin, units)

    def _add(self, origin: str, units: list[Unit]) -> None:
        self._base.executemany(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [_row(unit, origin, self._now) for unit in units],
        )

    def has_archive(self, path: str, size: int, mtime_ns: int, version: int) -> bool:
        """See `Sink.has_archive`; a package that could not be read is read again."""
        with self._told():
            kept = self._base.execute(
                "SELECT size, mtime_ns, error FROM archives WHERE path = ?", (_text(path),)
            ).fetchone()
            if kept != (size, mtime_ns, None):
                return False
            unfinished = self._base.execute(_UNFINISHED, (_text(path), version)).fetchone()
            return unfinished is None

    def add_archive(
        self, path: str, size: int, mtime_ns: int, units: list[Unit], error: Diagnostic | None
    ) -> None:
        """See `Sink.add_archive`."""
        text = None if error is None else json.dumps(error.to_json(), sort_keys=True)
        with self._told(), self._writing():
            self._base.execute("DELETE FROM files WHERE origin = ?", (_text(path),))
            self._add(path, units)
            self._base.execute(
                "INSERT OR REPLACE INTO archives VALUES (?, ?, ?, ?, ?)",
                (_text(path), size, mtime_ns, text, self._now),
            )

    def settle(self, folder: str, archives: set[str]) -> None:
        """See `Sink.settle`."""
        with self._told(), self._writing():
            self._base.execute(
                "DELETE FROM files WHERE origin = ? AND seen < ?", (_text(folder), self._now)
            )
            inside = f"{_text(folder).rstrip('/')}/"
            rows = self._base.execute("SELECT path FROM archives").fetchall()
            for (path,) in rows:
                if path.startswith(inside) and path not in {_text(a) for a in archives}:
                    self._base.execute("DELETE FROM files WHERE origin = ?", (path,))
                    self._base.execute("DELETE FROM archives WHERE path = ?", (path,))

    # -- other stores ----------------------------------------------------------------------------

    def merge(self, path: str) -> None:
        """Take in all that the store in another file has."""
        Store(path, create=False).close()  # what is wrong with it is told with its name
        with self._told():
            self._base.execute("ATTACH ? AS other", (path,))
        try:
            with self._told(), self._writing():
                for statement in (_TAKE_OBJECTS, _TAKE_FILES, _TAKE_ARCHIVES):
                    self._base.execute(statement)
        finally:
            with self._told():
                self._base.execute("DETACH other")

    def take(self, outcomes: Iterable[Outcome], files: Iterable[tuple[str, int, Unit]]) -> None:
        """The same for rows from elsewhere; ``files`` are (origin, nanoseconds, unit)."""
        made = time.time()
        objects = ((o.build_id, o.version, o.summary, o.error, o.seconds, made) for o in outcomes)
        rows = (_row(unit, origin, seen) for origin, seen, unit in files)
        with self._told(), self._writing():
            self._base.executemany(_given(_TAKE_OBJECTS, "objects", 6), objects)
            self._base.executemany(_given(_TAKE_FILES, "files", 9), rows)

    # -- reading ---------------------------------------------------------------------------------

    def files(self) -> list[File]:
        """All installed files, by package and path."""
        with self._told():
            rows = self._base.execute(
                "SELECT package, path, build_id, soname, links, program, runpath FROM files "
                "ORDER BY 1, 2"
            )
            return [
                File(package, path, build_id, soname, _listed(links), bool(program),
                     _listed(runpath))
                for package, path, build_id, soname, links, program, runpath in rows
            ]  # fmt: skip

    def summary(self, build_id: str) -> bytes | None:
        """The bytes of a summary, None for none."""
        with self._told():
            row = self._base.execute(
                "SELECT summary FROM objects WHERE build_id = ?", (build_id,)
            ).fetchone()
        return None if row is None else row[0]

    def outcomes(self) -> Iterator[Outcome]:
        """All outcomes, by build-id."""
        with self._told():
            rows = self._base.execute(
                "SELECT build_id, version, summary, seconds, error FROM objects ORDER BY 1"
            )
            for row in rows:
                yield Outcome(*row)

    def failures(self) -> list[tuple[str, str]]:
        """(build-id or path of a package, diagnostic as JSON) of what cannot be analysed."""
        with self._told():
            rows = self._base.execute(
                "SELECT build_id, error FROM objects WHERE error IS NOT NULL UNION ALL "
                "SELECT path, error FROM archives WHERE error IS NOT NULL ORDER BY 1"
            )
            return [(what, error) for what, error in rows]

    def seconds(self) -> float:
        """Processor time that all summaries took."""
        with self._told():
            return float(self._value("SELECT total(seconds) FROM objects"))

    # -- SQLite ----------------------------------------------------------------------------------

    def _value(self, query: str) -> Any:
        return self._base.execute(query).fetchone()[0]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction; an exception undoes it."""
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
            raise
        self._base.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._wrong(error) from None

    def _wrong(self, error: sqlite3.Error) -> LinkError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY,
                                                           sqlite3.SQLITE_LOCKED):  # fmt: skip
            return LinkError(
                "distribution/locked", "another process writes to the store",
                place=Place(self.path),
                help="wait for it, or give this run a --store of its own and --merge it later",
            )  # fmt: skip
        return LinkError(
            "distribution/store", f"not a store that can be used: {error}", place=Place(self.path),
            help="check the path, its permissions and the room there; a damaged store is removed "
            "and made again",
        )  # fmt: skip


def _text(name: str) -> str:
    """A name as SQLite can keep it: bytes that are not UTF-8 as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split("\n")))


def _given(statement: str, table: str, columns: int) -> str:
    """A statement that takes rows of another store, with values in their place."""
    return statement.replace(
        f"SELECT * FROM other.{table} WHERE true", f"VALUES ({', '.join('?' * columns)})"
    )


def _row(unit: Unit, origin: str, seen: int) -> tuple[object, ...]:
    return (
        _text(unit.package), _text(unit.path), unit.build_id, _text(unit.soname),
        _text("\n".join(unit.links)), unit.is_program,
        _text("\n".join(unit.runpath)), _text(origin), seen,
    )  # fmt: skip
