"""``spidl enable``: programs that start through their images under their own names."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass

from spidl.cli.enabled import Enabled, Folder
from spidl.cli.states import libraries_of
from spidl.cli.tables import plain, table, write, write_json
from spidl.diagnostics import LinkError, Place, Refusal
from spidl.keeping import kept_link
from spidl.session import Request, find_program, option_words, selected


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one PROG."""

    name: str
    program: str | None
    state: str
    """``enabled``, ``updated``, ``not-enabled``."""
    note: str = ""
    libraries: int | None = None
    error: LinkError | None = None


def enable(options: argparse.Namespace) -> int:
    """Link and enable each program; 2 where one could not be, after all others were tried."""
    folder = Folder()
    folder.prepare()
    outcomes = [_enable(name, folder, options) for name in dict.fromkeys(options.programs)]
    if options.json:
        write_json({
            "folder": folder.path,
            "in_path": folder.position() is not None,
            "path_line": folder.path_line(),
            "programs": [_json(outcome) for outcome in outcomes],
        })  # fmt: skip
    else:
        write(_text(outcomes, folder))
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    for error in failed:
        print(error.diagnostic, file=sys.stderr)
    return 2 if failed else 0


def request_for(program: str, options: argparse.Namespace) -> Request:
    """A request that means the same in every working folder."""
    return Request(
        program, tuple(_absolute(spec) for spec in options.extra), options.layout,
        os.path.abspath(options.config) if options.config else None, tuple(options.settings),
    )  # fmt: skip


def _absolute(spec: str) -> str:
    """A module's name, or its file's path with the class."""
    path, colon, kind = spec.partition(":")
    return f"{os.path.abspath(path)}{colon}{kind}" if path.endswith(".py") else spec


def _enable(name: str, folder: Folder, options: argparse.Namespace) -> Outcome:
    program = None
    try:
        program = find_program(name)
        own = os.path.basename(program)
        folder.check_name(own)
        request = request_for(program, options)
        entry = kept_link(request)
        if entry.image is None:
            raise _refused(program, entry.kept.message)
        choice = selected(request)
        words = [word for word in option_words(request) if word != "--layout=shared"]
        before = folder.read(own)
        full_name = options.full_name or _looks_beside_itself(program)
        folder.write(
            Enabled(own, choice.program, choice.cache, choice.config, tuple(words), full_name)
        )
    except LinkError as error:
        return Outcome(os.path.basename(name), program, "not-enabled", error=error)
    updated = isinstance(before, Enabled)
    other = before.program if isinstance(before, Enabled) else program
    return Outcome(
        own, program, "updated" if updated else "enabled",
        f"was {other}" if other != choice.program else "", len(libraries_of(entry.kept)),
    )  # fmt: skip


def _looks_beside_itself(program: str) -> bool:
    """Whether it is a driver of GCC's or a Python: they look for themselves in PATH, by argv[0].

    There they would find the launcher, and their own files nowhere near it.
    """
    try:
        with open(program, "rb") as file:
            content = file.read()
        return b"GCC_EXEC_PREFIX\0" in content or b"Py_BytesMain\0" in content
    except OSError:
        return False


def _refused(program: str, message: str) -> Refusal:
    """The reason again that was kept with the link."""
    return Refusal(
        "enable/refused",
        "an image of this program could not be trusted, so there is nothing to enable",
        place=Place(program),
        notes=(message,),
        help="it runs as before, under the system's linker; docs/errors.md explains the reason",
    )


def _json(outcome: Outcome) -> dict[str, object]:
    return {
        "name": outcome.name,
        "path": outcome.program,
        "state": outcome.state,
        "libraries": outcome.libraries,
        "error": None if outcome.error is None else outcome.error.diagnostic.to_json(),
    }


def _text(outcomes: list[Outcome], folder: Folder) -> list[str]:
    lines = table(
        ("PROGRAM", "PATH", "LIBRARIES", ""),
        (
            (o.name, o.program or "-", "-" if o.libraries is None else str(o.libraries),
             _what(o))
            for o in outcomes
        ),
        numbers="LIBRARIES",
    )  # fmt: skip
    enabled = [o for o in outcomes if o.error is None]
    hidden = [o.name for o in enabled if o.program and not folder.is_first(o.program)]
    if hidden:
        lines += [
            "",
            "Your shell does not find them yet. Add this line to its profile:",
            "",
            f"    {plain(folder.path_line())}",
        ]
    elif any(o.state == "enabled" for o in enabled):
        lines += ["", "A shell that has started one of them before forgets it with `hash -r`."]
    return lines


def _what(outcome: Outcome) -> str:
    if outcome.error is None:
        return outcome.state + (f" ({outcome.note})" if outcome.note else "")
    code = outcome.error.code
    if isinstance(outcome.error, Refusal) and outcome.error.diagnostic.notes:
        code = outcome.error.diagnostic.notes[0].partition(":")[0]
    return f"not enabled: {code}"
