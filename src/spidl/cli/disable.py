"""``spidl disable``: a program starts under the system's linker again."""

from __future__ import annotations

import argparse
import os
import sys

from spidl.cli.enabled import Folder
from spidl.cli.tables import plain, write, write_json
from spidl.diagnostics import LinkError, Place
from spidl.session import find_program


def disable(options: argparse.Namespace) -> int:
    """Remove links and what the launcher reads beside them; images stay in the cache.

    A program that is there, but was not enabled, is none the worse for it; a name that nobody knows
    is an error, after all others are done.  Raises `LinkError` ``cli/usage``.
    """
    folder = Folder()
    known = folder.names()
    if options.all == bool(options.programs):
        raise LinkError("cli/usage", "give the programs to disable, or --all",
                        help="spidl status lists what is enabled")  # fmt: skip
    names = known if options.all else list(dict.fromkeys(map(_name, options.programs)))
    states: dict[str, str] = {}
    errors: list[LinkError] = []
    for name in names:
        try:
            if name in known:
                folder.remove(name)
                states[name] = "disabled"
            else:
                find_program(name)
                states[name] = "was not enabled"
        except LinkError as error:
            unknown = error.code.startswith("collect/")
            errors.append(_not_enabled(name, folder, known) if unknown else error)
    if options.json:
        write_json({
            "folder": folder.path, "programs": [{"name": n, "state": s} for n, s in states.items()],
            "errors": [failed.diagnostic.to_json() for failed in errors],
        })  # fmt: skip
    else:
        write(f"{plain(name)}: {state}" for name, state in states.items())
    for failed in errors:
        print(failed.diagnostic, file=sys.stderr)
    return 2 if errors else 0


def _name(program: str) -> str:
    return os.path.basename(program.rstrip("/"))


def _not_enabled(name: str, folder: Folder, known: list[str]) -> LinkError:
    return LinkError(
        "enable/not-enabled",
        f"no program `{name}` is enabled",
        place=Place(folder.path),
        notes=(f"enabled are: {', '.join(known)}",) if known else ("nothing is enabled",),
        help="check the spelling; spidl status lists what is enabled",
    )
