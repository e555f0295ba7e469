"""The ``spidl`` command: options, and the one place where errors become messages.

Heavy imports wait until a command needs them: `spidl run` of a cached program loads neither numpy
nor the linker.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from spidl import __version__
from spidl.diagnostics import LinkError, fault

_COMMANDS = {
    "run": "start a program through its linked image (links it first if need be)",
    "build": "link a program and write the image to a file",
    "explain": "which module did what and why; who binds to whom; who wrote a word",
    "tree": "the libraries a program needs, where each was found and why",
    "modules": "the modules that are installed, and the pipeline",
    "bench": "start times under the system's linker and as an image, side by side",
}
_WITH_VALUE = ("--with", "--config", "--set", "--layout", "--runs")


class _Parser(argparse.ArgumentParser):
    """argparse with errors in Spidl's form."""

    def error(self, message: str) -> NoReturn:
        raise LinkError("cli/usage", message, help=f"see {self.prog} --help for what there is")


def _parser() -> _Parser:
    parser = _Parser(prog="spidl", description="A dynamic linker you can program.")
    parser.add_argument("--version", action="version", version=f"spidl {__version__}")
    # Without prog, argparse would format a usage here, which takes 5 ms.
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", parser_class=_Parser, prog=parser.prog
    )
    parsers = {name: commands.add_parser(name, help=text, description=text[0].upper() + text[1:])
               for name, text in _COMMANDS.items()}  # fmt: skip
    for name in ("run", "build", "explain", "tree", "bench"):
        _link_options(parsers[name], layout=name in ("run", "build"))
    parsers["run"].add_argument("program", metavar="PROG")
    parsers["run"].add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG")
    parsers["build"].add_argument("program", metavar="PROG")
    parsers["build"].add_argument("-o", "--output", required=True, metavar="FILE")
    parsers["explain"].add_argument("program", metavar="PROG")
    parsers["explain"].add_argument("symbol", nargs="?", metavar="SYMBOL")
    parsers["explain"].add_argument("--at", metavar="ADDRESS", help="OBJECT+OFFSET, or an address")
    parsers["explain"].add_argument("--json", action="store_true", help="for programs")
    parsers["tree"].add_argument("program", metavar="PROG")
    parsers["tree"].add_argument("--json", action="store_true", help="for programs")
    parsers["tree"].add_argument("-o", "--output", metavar="FILE.svg", help="draw it")
    parsers["modules"].add_argument("--json", action="store_true", help="for programs")
    parsers["modules"].add_argument("--config", metavar="FILE", help="a spidl.toml")
    parsers["bench"].add_argument("--runs", type=int, default=50, metavar="N")
    parsers["bench"].add_argument("--json", action="store_true", help="for programs")
    parsers["bench"].add_argument("program", metavar="PROG")
    parsers["bench"].add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG")
    return parser


def _link_options(parser: argparse.ArgumentParser, *, layout: bool) -> None:
    parser.add_argument(
        "--with", dest="extra", action="append", default=[], metavar="MODULE",
        help="add a module to the end of the pipeline: a name, or FILE.py[:CLASS]",
    )  # fmt: skip
    parser.add_argument("--config", metavar="FILE", help="a spidl.toml instead of the user's own")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="MODULE.KEY=VALUE",
        help="a module's setting",
    )  # fmt: skip
    if layout:
        parser.add_argument(
            "--layout", choices=("shared", "copy"), default="shared",
            help="text from the original files (shared, the default) or copied into the image",
        )  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Run one command; gives the exit status: 2 for a program that cannot be linked as asked."""
    as_json = argv[:1] not in (["run"], ["build"]) and "--json" in argv
    try:
        own, arguments = _split(argv)
        options = _parser().parse_args(own)
        if arguments:
            options.arguments = arguments
        if options.command is None:
            _parser().print_help()
            return 2
        return _dispatch(options)
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
    """Spidl's own words, and the program's: those behind its name in run and bench.

    argparse would take a ``--`` out of the program's.
    """
    words = list(argv)
    if words[:1] not in (["run"], ["bench"]):
        return words, []
    at = 1
    while at < len(words) and words[at] != "--" and words[at].startswith("-"):
        at += 2 if words[at] in _WITH_VALUE else 1
    at += words[at : at + 1] == ["--"]
    return words[: at + 1], words[at + 1 :]


def _report(error: LinkError, *, as_json: bool) -> int:
    try:
        if as_json:
            print(json.dumps({"error": error.diagnostic.to_json()}))
        print(error.diagnostic, file=sys.stderr)
    except (OSError, ValueError):
        pass  # nobody listens
    return 2


def _dispatch(options: argparse.Namespace) -> int:
    if options.command == "run":
        from spidl.cli.run import run

        return run(options)
    if options.command == "build":
        from spidl.cli.build import build

        return build(options)
    if options.command == "explain":
        from spidl.cli.explain import explain

        return explain(options)
    if options.command == "tree":
        from spidl.cli.tree import tree

        return tree(options)
    if options.command == "modules":
        from spidl.cli.modules import modules

        return modules(options)
    from spidl.cli.bench import bench

    return bench(options)


def entry() -> NoReturn:
    """The console script."""
    gc.disable()  # a short life with few cycles; collections would take a tenth of it
    sys.exit(main(sys.argv[1:]))
