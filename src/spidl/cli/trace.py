"""``spidl trace``: run a program and count, or write down, the calls through its bindings."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable

from spidl.cli.tables import table
from spidl.diagnostics import LinkError, Place
from spidl.launch import LAUNCHER, command
from spidl.modules.trace.layout import counts
from spidl.session import Request, configured, find_program, option_words

_MODULE = "trace"
_HEADING = ("calls", "caller", "of", "symbol")


def trace(options: argparse.Namespace) -> int:
    """Gives the program's own status; 128 and the signal's number where one ended it.

    Raises `LinkError` ``trace/not-started``, ``cli/cannot-write``.
    """
    find_program(options.program)  # its errors say more than the launcher's
    request = _request(options)
    words = ["run", *option_words(request), "--", options.program, *options.arguments]
    output = None if options.output is None else os.path.abspath(options.output)
    if output is not None:
        _save(output, "")
    with tempfile.NamedTemporaryFile(prefix="spidl-trace-") as file:
        environment = {**os.environ, "SPIDL_TRACE": file.name}
        if output is not None and options.log:
            environment["SPIDL_TRACE_OUTPUT"] = output
        status = _run(command(*words), environment)
        content = file.read()
    try:
        rows = [row for row in counts(content) if row[3]]
    except ValueError:
        if status == 2:  # the launcher has said why
            return status
        raise LinkError(
            "trace/not-started",
            f"{options.program} did not start as an image, so nothing was traced",
            place=Place(options.program),
            help="SPIDL_VERBOSE=1 says why",
        ) from None
    if not options.log or options.json:
        text = _json(rows) if options.json else _table(rows)
        if output is None or options.log:
            sys.stderr.write(text)
        else:
            _save(output, text)
    return status


def _request(options: argparse.Namespace) -> Request:
    """The link, with the module and the command line's rule."""
    request = Request(
        options.program, tuple(options.extra), options.layout, options.config,
        tuple(options.settings),
    )  # fmt: skip
    extra, settings = request.extra, request.settings
    configuration = configured(request)
    if _MODULE not in (*configuration.pipeline, *extra):
        extra = (*extra, _MODULE)
    chosen = options.symbols or options.callers or options.of or options.log
    if chosen or "rules" not in configuration.settings.get(_MODULE, {}):
        settings = (*settings, f"{_MODULE}.rules=[{', '.join(_rules(options))}]")
    return Request(options.program, extra, options.layout, options.config, settings)


def _rules(options: argparse.Namespace) -> Iterable[str]:
    """One rule a symbol, in TOML."""
    for symbol in options.symbols or ["*"]:
        parts = {
            "symbol": symbol,
            "of": options.of or "*",
            "callers": options.callers or ["*"],
            "mode": "log" if options.log else "count",
        }
        yield "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in parts.items()) + "}"


def _run(words: list[str], environment: dict[str, str]) -> int:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to the program
    try:
        process = subprocess.Popen(
            words, env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, before or signal.SIG_DFL),
        )  # fmt: skip
        status = process.wait()
    except OSError as error:
        raise LinkError(
            "start/exec", f"cannot execute: {error.strerror}", place=Place(LAUNCHER),
            help="check the file's permissions and whether its file system is `noexec`",
        ) from None  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before or signal.SIG_DFL)
    return status if status >= 0 else 128 - status


def _ordered(rows: list[tuple[str, str, str, int]]) -> list[tuple[str, str, str, int]]:
    return sorted(rows, key=lambda row: (-row[3], row[:3]))


def _table(rows: list[tuple[str, str, str, int]]) -> str:
    cells = [(str(made), caller, of, symbol) for caller, symbol, of, made in _ordered(rows)]
    total = sum(row[3] for row in rows)
    return "\n".join([*table(_HEADING, [*cells, (str(total), "", "", "")], "calls"), ""])


def _json(rows: list[tuple[str, str, str, int]]) -> str:
    calls = [dict(zip(("caller", "symbol", "of", "calls"), row, strict=True))
             for row in _ordered(rows)]  # fmt: skip
    return json.dumps({"calls": calls}, indent=1) + "\n"


def _save(path: str, text: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(text)
    except OSError as error:
        raise LinkError(
            "cli/cannot-write", f"cannot write the output: {error.strerror}", place=Place(path),
            help="give -o a file in a folder that you may write to",
        ) from None  # fmt: skip
