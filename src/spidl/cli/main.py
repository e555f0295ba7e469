"""The ``spidl`` command, and the one place where errors become messages.

Heavy imports wait until a command needs them: what the launcher waits for loads neither numpy nor
the linker before it knows that there is something to link.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from spidl.cli.options import WITH_VALUE, help_text, parse
from spidl.diagnostics import LinkError, fault


def main(argv: Sequence[str]) -> int:
    """Run one command; gives the exit status: 2 for a program that cannot be linked as asked."""
    as_json = argv[:1] not in (["run"], ["build"]) and "--json" in argv
    try:
        own, arguments = _split(argv)
        options = parse(own)
        if options is None:
            print(help_text(), end="")
            return 2
        if arguments:
            options.arguments = arguments
        return _dispatch(options, argv)
    except LinkError as error:
        return _report(error, as_json=as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # the last door: a user never sees a traceback
        if os.environ.get("SPIDL_TRACEBACK"):
            raise
        return _report(fault(error), as_json=as_json)


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Spidl's own words, and the program's: those behind its name in run, bench and trace.

    argparse would take a ``--`` out of the program's.
    """
    words = list(argv)
    if words[:1] not in (["run"], ["keep"], ["bench"], ["trace"]):
        return words, []
    at = 1
    while at < len(words) and words[at] != "--" and words[at].startswith("-"):
        at += 2 if words[at] in WITH_VALUE else 1
    at += words[at : at + 1] == ["--"]
    return words[: at + 1], words[at + 1 :]


def _report(error: LinkError, *, as_json: bool) -> int:
    try:
        if as_json:
            import json

            print(json.dumps({"error": error.diagnostic.to_json()}))
        print(error.diagnostic, file=sys.stderr)
    except (OSError, ValueError):
        pass  # nobody listens
    return 2


def _dispatch(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Command NAME is the function NAME of ``spidl.cli.NAME``."""
    if options.command == "run":
        from spidl.cli.run import run

        run(options, argv)
    module = importlib.import_module(f"spidl.cli.{options.command}")
    command: Callable[[argparse.Namespace], int] = getattr(module, options.command)
    return command(options)


def entry() -> NoReturn:
    """The console script."""
    gc.disable()  # a short life with few cycles; collections would take a tenth of it
    sys.exit(main(sys.argv[1:]))
