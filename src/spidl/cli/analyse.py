"""``spidl analyse``: the system calls that ELF files can make, from the binaries alone."""

from __future__ import annotations

import argparse
import os
import stat

from spidl import analyse as analyser
from spidl.analyse import Summary, summary_of
from spidl.analyse.names import name_of
from spidl.analyse.note import embed
from spidl.analyse.summary import FLAGS, Class
from spidl.cache.objects import Objects as Kept
from spidl.cache.store import Store
from spidl.cli.tables import BOLD, YELLOW, paint, plain, table, write, write_json
from spidl.diagnostics import LinkError, Place
from spidl.elf import ElfFile
from spidl.files import write_whole
from spidl.link.objects import Objects, ObjectStore

_SHOWN = 12
"""System calls of a class that the table names; --json has all."""


def analyse(options: argparse.Namespace) -> int:
    """Print what each file can ask of the kernel, or put it into a copy.  Raises `LinkError`."""
    if options.folders or options.merge or options.report:
        from spidl.cli.analyse_all import analyse_all

        return analyse_all(options)
    if not options.files:
        raise LinkError("cli/usage", "no file is given", help="see spidl analyse --help")
    if options.embed:
        return _embed(options)
    if options.output is not None:
        raise LinkError("cli/usage", "-o needs --embed", help="see spidl analyse --help")
    files = Objects(_store())
    found = [(path, summary_of(files.open(path), files)) for path in options.files]
    if options.json:
        write_json([{"file": path, **summary.to_json()} for path, summary in found])
        return 0
    lines: list[str] = []
    for path, summary in found:
        lines += [*([""] if lines else []), *_text(path, summary, options.functions)]
    write(lines)
    return 0


def _store() -> ObjectStore | None:
    try:
        return Kept(Store().folder)
    except LinkError:
        return None


def _embed(options: argparse.Namespace) -> int:
    if len(options.files) != 1 or options.output is None:
        raise LinkError(
            "cli/usage", "--embed takes one file, and -o with the name of the copy",
            help="spidl analyse --embed libx.so -o copy/libx.so",
        )  # fmt: skip
    file = ElfFile.open(options.files[0])
    summary = analyser.analyse(file)
    mode = stat.S_IMODE(os.stat(options.files[0]).st_mode)
    try:
        write_whole(options.output, embed(file, summary), mode)
    except OSError as error:
        raise LinkError(
            "cli/cannot-write", f"cannot write the copy: {error.strerror}",
            place=Place(options.output), help="give another path to -o",
        ) from None  # fmt: skip
    return 0


def _names(member: Class) -> str:
    names = [name_of(number) for number in sorted(member.syscalls)]
    more = len(names) - _SHOWN
    return " ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _text(path: str, summary: Summary, functions: bool) -> list[str]:
    rows = [("always", summary.classes[summary.always])]
    if summary.entry is not None:
        rows.append(("entry", summary.classes[summary.entry]))
    lines = [paint(plain(path), BOLD)]
    lines += table(
        ("", "CALLS", "IMPORTS", "UNKNOWN", "NAMES"),
        ((name, str(len(member.syscalls)), str(len(member.imports)),
          "yes" if member.unknown else "no", _names(member)) for name, member in rows),
        numbers="CALLS IMPORTS",
    )  # fmt: skip
    lines.append(f"{len(summary.exports)} exports in {len(summary.classes)} classes, "
                 f"{len(summary.imports)} imports")  # fmt: skip
    lines += [paint(plain(f"{site.function} at {site.vaddr:#x}: {site.reason}"), YELLOW)
              for site in summary.unknown]  # fmt: skip
    lines += [f"{flag}: {FLAGS[flag]}" for flag in sorted(summary.flags)]
    if functions:
        lines += ["", *_functions(summary)]
    return lines


def _functions(summary: Summary) -> list[str]:
    def row(name: str, version: str | None, which: int) -> tuple[str, ...]:
        member = summary.classes[which]
        calls = "*" if which == summary.always else _names(member)
        count = f"{len(member.syscalls)}{'?' if member.unknown else ''}"
        return (name if version is None else f"{name}@{version}", count,
                str(len(member.imports)), calls)  # fmt: skip

    rows = [row(*key, which) for key, which in sorted(summary.exports.items(),
            key=lambda item: (item[0][0], item[0][1] or ""))]  # fmt: skip
    return table(("FUNCTION", "CALLS", "IMPORTS", "NAMES (* as always)"), rows, "CALLS IMPORTS")
