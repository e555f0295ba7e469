"""``spidl status``: what is enabled, the state of each image, and what is in the way."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

from spidl.cache.private import is_private
from spidl.cache.store import Store, Stored
from spidl.cli.enabled import Enabled, Folder
from spidl.cli.states import (
    VALID,
    State,
    age_text,
    image_of,
    size_text,
    state_of,
    time_text,
)
from spidl.cli.tables import YELLOW, paint, plain, table, write, write_json
from spidl.diagnostics import Diagnostic, LinkError, Place, Severity
from spidl.launch import is_launcher, select

_ROOM = 64 << 20
"""Bytes: images with copied text have some 30 MB."""


@dataclass(frozen=True, slots=True)
class Row:
    """One enabled program."""

    name: str
    enabled: Enabled | None
    state: State
    stored: Stored | None
    found: bool
    """Whether PATH leads to the link before the program itself."""


def status(options: argparse.Namespace) -> int:
    """Print the folder, its programs and what is wrong; only errors make a status of 2."""
    folder = Folder()
    rows = [_row(name, folder) for name in folder.names()]
    problems = [*_problems_of_folder(folder, rows), *_problems_of_cache()]
    if options.json:
        write_json({
            "folder": folder.path,
            "in_path": folder.position() is not None,
            "path_position": folder.position(),
            "path_line": folder.path_line(),
            "programs": [_json(row) for row in rows],
            "problems": [problem.to_json() for problem in problems],
        })  # fmt: skip
    else:
        write(_text(folder, rows, problems))
    return 0


def _row(name: str, folder: Folder) -> Row:
    enabled = folder.read(name)
    if isinstance(enabled, str):
        return Row(name, None, State("not-believed", enabled), None, False)
    found = folder.is_first(enabled.program)
    if not folder.is_linked(name):
        return Row(name, enabled, State("no-link", "its link is gone"), None, False)
    if not os.path.exists(folder.link(name)):
        return Row(name, enabled, State("no-link", "it leads to another Spidl, which is gone; "
                                        "enable it again"), None, False)  # fmt: skip
    try:
        if is_launcher(enabled.program, os.stat(enabled.program)):
            return Row(name, enabled, State("no-program", "it leads to Spidl"), None, found)
    except OSError as error:
        why = f"{enabled.program}: {error.strerror}"
        return Row(name, enabled, State("no-program", why), None, found)
    try:
        stored = _entry(enabled)
    except LinkError as error:
        return Row(name, enabled, State("unknown", error.diagnostic.message), None, found)
    return Row(name, enabled, state_of(stored), stored, found)


def _entry(enabled: Enabled) -> Stored | None:
    """What a start of the program in this environment would use.  Raises `LinkError`."""
    cache = None if os.environ.get("SPIDL_CACHE") else enabled.cache
    choice = select(enabled.program, enabled.options, cache=cache, config=enabled.config)
    return Store(choice.cache).look(choice.key)


def _problems_of_folder(folder: Folder, rows: list[Row]) -> list[Diagnostic]:
    problems = [_warning(fault.diagnostic) for fault in folder.faults()]
    hidden = [row.name for row in rows if row.enabled is not None and not row.found]
    if folder.position() is None and rows:
        problems.append(Diagnostic(
            "enable/not-in-path", "the folder is not in PATH: nothing starts from it",
            Place(folder.path), help=f"add to your shell's profile: {folder.path_line()}",
            severity=Severity.WARNING,
        ))  # fmt: skip
    elif hidden:
        problems.append(Diagnostic(
            "enable/not-in-path", "the programs themselves come first in PATH",
            Place(folder.path), notes=(f"programs: {', '.join(hidden)}",),
            help=f"add to the end of your shell's profile: {folder.path_line()}",
            severity=Severity.WARNING,
        ))  # fmt: skip
    return problems


def _problems_of_cache() -> list[Diagnostic]:
    try:
        store = Store()
        for folder in (store.folder, store.images):
            if os.path.lexists(folder) and not is_private(folder):
                store.prepare()  # says what is wrong
            if os.path.lexists(folder) and not os.access(folder, os.W_OK | os.X_OK):
                raise _unwritable(folder, "it may not be written to")
        above = _existing(store.folder)
        if above != store.folder and not os.access(above, os.W_OK | os.X_OK):
            raise _unwritable(store.folder, f"{above} may not be written to")
        room = os.statvfs(above)
        free = room.f_bavail * room.f_frsize
        if free < _ROOM or (room.f_files and not room.f_favail):
            raise LinkError(
                "cache/no-room",
                f"the disk is full: {size_text(free)} are left for images",
                place=Place(store.folder),
                help="spidl cache gc --max-size 500M, or set SPIDL_CACHE to a folder elsewhere",
            )
    except LinkError as error:
        return [_warning(error.diagnostic)]
    except OSError as error:
        return [_warning(_unwritable(store.folder, str(error.strerror)).diagnostic)]
    return []


def _existing(path: str) -> str:
    while not os.path.lexists(path):
        path = os.path.dirname(path)
    return path


def _unwritable(folder: str, why: str) -> LinkError:
    return LinkError(
        "cache/cannot-write", f"images cannot be kept: {why}", place=Place(folder),
        help="set SPIDL_CACHE to a folder that you may write to and that has room",
    )  # fmt: skip


def _warning(problem: Diagnostic) -> Diagnostic:
    return Diagnostic(problem.code, problem.message, problem.place, problem.notes, problem.help,
                      Severity.WARNING)  # fmt: skip


def _json(row: Row) -> dict[str, object]:
    stored = row.stored
    return {
        "name": row.name,
        "path": None if row.enabled is None else row.enabled.program,
        "options": [] if row.enabled is None else list(row.enabled.options),
        "state": row.state.name,
        "why": row.state.why or None,
        "found_first": row.found,
        "image": image_of(stored),
        "size": None if stored is None else stored.size,
        "last_use": None if stored is None else time_text(stored.used),
    }


def _text(folder: Folder, rows: list[Row], problems: list[Diagnostic]) -> list[str]:
    position = folder.position()
    where = "not in PATH" if position is None else f"place {position} in PATH"
    lines = [f"{plain(folder.path)} ({where})", ""]
    if rows:
        lines += table(
            ("PROGRAM", "PATH", "IMAGE", "SIZE", "LAST USE", ""),
            (
                (row.name, "-" if row.enabled is None else row.enabled.program, row.state.name,
                 "-" if row.stored is None else size_text(row.stored.size),
                 "-" if row.stored is None else age_text(row.stored.used),
                 row.state.why)
                for row in rows
            ),
            numbers="SIZE",
        )  # fmt: skip
        if any(row.state.name != VALID for row in rows):
            lines += ["", "What is stale or missing is linked at the next start, or by spidl warm."]
    else:
        lines.append("No program is enabled: spidl enable PROG does it.")
    for problem in problems:
        lines += ["", *(paint(plain(line), YELLOW) for line in str(problem).splitlines())]
    return lines
