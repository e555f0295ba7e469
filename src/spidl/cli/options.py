"""What each command takes on its command line, and the help that lists them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from spidl import __version__
from spidl.diagnostics import LinkError

WITH_VALUE = ("--with", "--config", "--set", "--capsule", "--layout", "--runs", "--but", "--cache",
              "--user-config", "--symbol", "--of", "--caller", "-o", "--output")  # fmt: skip
"""Options whose value may be the next word."""


class Parser(argparse.ArgumentParser):
    """argparse with errors in Spidl's form."""

    def error(self, message: str) -> NoReturn:
        raise LinkError("cli/usage", message, help=f"see {self.prog} --help for what there is")


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what it does in a few words, what it takes."""

    summary: str
    add: Callable[[argparse.ArgumentParser], None]


def _link(parser: argparse.ArgumentParser, *, layout: bool = True) -> None:
    group = parser.add_argument_group("how it is linked")
    group.add_argument(
        "--with", dest="extra", action="append", default=[], metavar="MODULE",
        help="add a module to the end of the pipeline: a name, or FILE.py[:CLASS]",
    )  # fmt: skip
    group.add_argument("--config", metavar="FILE", help="a spidl.toml instead of the user's own")
    group.add_argument(
        "--set", dest="settings", action="append", default=[], metavar="MODULE.KEY=VALUE",
        help="a module's setting; += adds to a list",
    )  # fmt: skip
    group.add_argument(
        "--capsule", dest="settings", action="append", metavar="LIBRARY=ROOT",
        type="capsule.take+={}".format,
        help="with the module capsule: a library, or several (A,B), from another file tree",
    )  # fmt: skip
    if layout:
        group.add_argument(
            "--layout", choices=("shared", "copy"), default="shared",
            help="text from the original files (shared, the default) or copied into the image",
        )  # fmt: skip


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for programs")


def _started(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", metavar="PROG")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG")


def _run(parser: argparse.ArgumentParser) -> None:
    _started(parser)
    _link(parser)


def _keep(parser: argparse.ArgumentParser) -> None:
    """What the launcher says when it needs a link (launcher/start.c); not for people."""
    _link(parser)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--but", default="")
    parser.add_argument("--cache")
    parser.add_argument("--user-config")
    parser.add_argument("program")


def _build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", metavar="PROG")
    parser.add_argument("-o", "--output", required=True, metavar="FILE")
    _link(parser)


def _explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", metavar="PROG")
    parser.add_argument("symbol", nargs="?", metavar="SYMBOL")
    parser.add_argument("--at", metavar="ADDRESS", help="OBJECT+OFFSET, or an address")
    _json(parser)
    _link(parser, layout=False)


def _tree(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", metavar="PROG")
    _json(parser)
    parser.add_argument("-o", "--output", metavar="FILE.svg", help="draw it")
    _link(parser, layout=False)


def _modules(parser: argparse.ArgumentParser) -> None:
    _json(parser)
    parser.add_argument("--config", metavar="FILE", help="a spidl.toml")


def _bench(parser: argparse.ArgumentParser) -> None:
    _started(parser)
    parser.add_argument("--runs", type=int, default=50, metavar="N")
    _json(parser)
    _link(parser, layout=False)


def _enable(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("programs", nargs="+", metavar="PROG", help="a name in PATH, or a path")
    parser.add_argument(
        "--full-name", action="store_true",
        help="argv[0] is the program's path: for programs that look for their files beside it",
    )  # fmt: skip
    _json(parser)
    _link(parser)


def _disable(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("programs", nargs="*", metavar="PROG")
    parser.add_argument("--all", action="store_true", help="all that are enabled")
    _json(parser)


def _warm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("programs", nargs="*", metavar="PROG", help="a name in PATH, or a path")
    parser.add_argument(
        "--all", dest="folders", action="append", default=[], metavar="DIR",
        help="every dynamically linked program in DIR",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, metavar="N", help="links at a time; one a core")
    _json(parser)
    _link(parser)


def _cache(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, prog=parser.prog, parser_class=Parser
    )  # fmt: skip

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        added = actions.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.",
            allow_abbrev=False,
        )  # fmt: skip
        _json(added)
        return added

    action("list", "what is kept")
    info = action("info", "everything about the entry of one program")
    info.add_argument("program", metavar="PROG")
    _link(info)
    verify = action("verify", "compare every image with its digest")
    verify.add_argument("--repair", action="store_true", help="remove what is damaged")
    gc = action("gc", "remove what is of no more use, then the least recently used")
    gc.add_argument("--max-size", metavar="SIZE", help="bytes to keep: 500M, 2G, 1000000")
    gc.add_argument("--max-age", type=float, metavar="DAYS", help="remove what was not used since")
    action("clear", "remove all that Spidl keeps, and nothing else")


def _domain(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, prog=parser.prog, parser_class=Parser
    )  # fmt: skip
    build = actions.add_parser(
        "build", help="compile a domain's modules and write its binder", allow_abbrev=False,
        description="Compile a domain's modules and write its binder.",
    )  # fmt: skip
    build.add_argument("folder", nargs="?", default=".", metavar="FOLDER",
                       help="where domain.toml is, or the file; this folder")  # fmt: skip
    build.add_argument("-o", "--output", metavar="FOLDER", help="FOLDER/build")
    build.add_argument("--link", choices=("dynamic", "static"), help="instead of what it says")
    _json(build)


def _seccomp(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, prog=parser.prog, parser_class=Parser
    )  # fmt: skip
    explain = actions.add_parser(
        "explain", help="which system calls a program may make, and why one", allow_abbrev=False,
        description="Which system calls a program may make, and why one.",
    )  # fmt: skip
    explain.add_argument("program", metavar="PROG")
    explain.add_argument("call", nargs="?", metavar="SYSCALL", help="a name, or a number")
    diff = actions.add_parser(
        "diff", help="what an update changes, of a program or a library", allow_abbrev=False,
        description="What an update changes, of a program or a library.",
    )  # fmt: skip
    diff.add_argument("old", metavar="OLD")
    diff.add_argument("new", metavar="NEW")
    for action in (explain, diff):
        _json(action)
        _link(action, layout=False)


def _policy(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest="action", metavar="ACTION", required=True, prog=parser.prog, parser_class=Parser
    )  # fmt: skip
    learn = actions.add_parser(
        "learn", help="write the policy that programs need as they are", allow_abbrev=False,
        description="Write the policy that programs need as they are.",
    )  # fmt: skip
    learn.add_argument("-o", "--output", metavar="FILE", help="instead of standard output")
    learn.add_argument("--pin", action="store_true", help="these files only: path and build-id")
    learn.add_argument("--symbols", action="store_true",
                       help="symbol by symbol where a library has no interfaces")  # fmt: skip
    learn.add_argument("--opens", action="append", default=[], metavar="OBJECT=NAME",
                       help="what an object opens at run time, besides what is found")  # fmt: skip
    check = actions.add_parser(
        "check", help="what programs do that a policy does not allow", allow_abbrev=False,
        description="What programs do that a policy does not allow: after an update, or with "
        "LD_LIBRARY_PATH before one.",
    )  # fmt: skip
    check.add_argument("--policy", metavar="FILE", help="instead of the settings' own")
    _json(check)
    for action in (learn, check):
        action.add_argument("programs", nargs="+", metavar="PROG", help="a name in PATH, or a path")
        _link(action, layout=False)


def _trace(parser: argparse.ArgumentParser) -> None:
    _started(parser)
    group = parser.add_argument_group("what is traced (docs/trace.md)")
    group.add_argument(
        "--symbol", dest="symbols", action="append", default=[], metavar="PATTERN",
        help="functions, for instance 'str*', memcpy@GLIBC_2.14; all, the default",
    )  # fmt: skip
    group.add_argument("--of", metavar="PATTERN", help="of this object only")
    group.add_argument(
        "--caller", dest="callers", action="append", default=[], metavar="PATTERN",
        help="as called by this object",
    )  # fmt: skip
    group.add_argument("--log", action="store_true",
                       help="a line for each call, with arguments and result")  # fmt: skip
    group.add_argument("-o", "--output", metavar="FILE", help="instead of standard error")
    _json(parser)
    _link(parser)


def _analyse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help="a program or shared library")
    parser.add_argument("--functions", action="store_true", help="a line for each export")
    parser.add_argument("--embed", action="store_true",
                        help="put what is found into a copy of the file")  # fmt: skip
    parser.add_argument("-o", "--output", metavar="COPY", help="the copy's name")
    _json(parser)
    _analyse_all(parser)


def _analyse_all(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("many files at once, with a store (docs/distribution.md)")

    def add(name: str, metavar: str, help: str, **more: Any) -> None:
        group.add_argument(name, metavar=metavar, help=help, **more)

    add("--all", "FOLDER", "every ELF file and .deb under FOLDER, as far as it is new",
        dest="folders", action="append", default=[])  # fmt: skip
    add("--store", "FILE", "where summaries are kept; a URL for fsspec, such as s3://bucket/folder",
        default="spidl-analysis.db")  # fmt: skip
    add("--jobs", "N", "files at a time; one a core", type=int)
    add("--timeout", "SECONDS", "for one file; 600", type=float)
    add("--scheduler", "ADDRESS", "of a Dask cluster, which analyses instead of this machine")
    group.add_argument("--retry", action="store_true", help="files that failed once again")
    add("--merge", "STORE", "take another store in", action="append", default=[])
    add("--report", "FILE.html", "write a page about the whole store")


COMMANDS = {
    "run": Command("start a program through its linked image (links it first if need be)", _run),
    "build": Command("link a program and write the image to a file", _build),
    "enable": Command("link programs and start them through Spidl under their own names", _enable),
    "disable": Command("start them without Spidl again", _disable),
    "status": Command("which programs are enabled, and the state of their images", _json),
    "warm": Command("link many programs ahead of their first start", _warm),
    "cache": Command("look at what is kept, check it, remove it", _cache),
    "explain": Command(
        "which module did what and why; who binds to whom; who wrote a word", _explain
    ),
    "tree": Command("the libraries a program needs, where each was found and why", _tree),
    "modules": Command("the modules that are installed, and the pipeline", _modules),
    "bench": Command("start times under the system's linker and as an image", _bench),
    "trace": Command("run a program and count, or write down, calls between libraries", _trace),
    "seccomp": Command("why a program may make a system call; what an update changes", _seccomp),
    "policy": Command("which libraries may do what in a program; what an update changes", _policy),
    "analyse": Command("the system calls that ELF files can make, by function", _analyse),
    "domain": Command("build code that is linked into a process by permission", _domain),
    "keep": Command("make the link of a program, for the launcher", _keep),
}
_GROUPS = (
    ("Start programs", ("run", "build", "enable", "disable", "status")),
    ("Kept images", ("warm", "cache")),
    ("Domains", ("domain",)),
    (
        "Understand a link",
        ("explain", "tree", "modules", "analyse", "seccomp", "policy", "trace", "bench"),
    ),
)


def parse(words: list[str]) -> argparse.Namespace | None:
    """The options of a command, its name as ``command``; None where no command is given.

    Only that command's options are set up: the launcher waits for this.  Raises `LinkError`
    ``cli/usage``; --help and --version end the process.
    """
    if words and words[0] in COMMANDS:
        command = COMMANDS[words[0]]
        summary = command.summary
        name = "run" if words[0] == "keep" else words[0]  # whose words the launcher passes on
        parser = Parser(
            f"spidl {name}", description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        command.add(parser)
        return parser.parse_args(words[1:], argparse.Namespace(command=words[0]))
    if words and not words[0].startswith("-"):
        raise LinkError("cli/usage", f"there is no command `{words[0]}`", help="see spidl --help")
    top = _Top("spidl", add_help=False, allow_abbrev=False)
    top.add_argument("-h", "--help", action="help")
    top.add_argument("--version", action="version", version=f"spidl {__version__}")
    top.parse_args(words)
    return None


class _Top(Parser):
    """`spidl` without a command."""

    def format_help(self) -> str:
        return help_text()


def help_text() -> str:
    """What `spidl --help` says."""
    lines = ["usage: spidl COMMAND ...", "", "A dynamic linker you can program."]
    for title, names in _GROUPS:
        lines += ["", f"{title}:"]
        lines += [f"  {name:<9} {COMMANDS[name].summary}" for name in names]
    lines += ["", "`spidl COMMAND --help` says more about one; --version is this Spidl's.", ""]
    return "\n".join(lines)
