"""``spidl run``: start a program through its image."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from spidl.cache.store import Entry
from spidl.diagnostics import LinkError, Place, Severity, fault
from spidl.session import Request, cached_image, find_program, policies


def run(options: argparse.Namespace) -> int:
    """Exec the cached image, linked now if need be; where there can be none, the plain way.

    A module that enforces a policy turns the plain way into an error.  A program that the system's
    linker starts is started, whatever went wrong here, with a warning.
    """
    program = find_program(options.program)
    request = Request(program, tuple(options.extra), options.layout, options.config,
                      tuple(options.settings))  # fmt: skip
    arguments = [options.program, *options.arguments]
    for _ in range(2):
        try:
            entry = _entry(request)
        except LinkError as error:
            if policies(request) or not _starts_plainly(request, error):
                raise
            error.with_note("the program starts the plain way, under the system's linker")
            print(replace(error.diagnostic, severity=Severity.WARNING), file=sys.stderr)
            _execute(program, arguments)
        if entry.image is None:
            return _plain(request, entry.refusal or {}, arguments)
        try:
            _execute(entry.image, arguments)
        except LinkError:
            # Removed since it was found, say by somebody who empties the cache: once more.
            if os.path.exists(entry.image):
                raise
    raise LinkError(
        "start/no-image",
        "the image is removed as soon as it is made",
        place=Place(program),
        help="see what empties the cache, or set SPIDL_CACHE to another folder",
    )


def _entry(request: Request) -> Entry:
    """`cached_image`; a fault of Spidl's own is one more reason to start the plain way."""
    try:
        return cached_image(request)
    except LinkError:
        raise
    except Exception as error:
        if os.environ.get("SPIDL_TRACEBACK"):
            raise
        raise fault(error) from error


def _starts_plainly(request: Request, error: LinkError) -> bool:
    """Whether the program starts without an image: a second opinion, where that is a question."""
    if error.code.startswith("cache/"):
        return True
    from spidl.cli.opinion import starts_plainly

    return starts_plainly(request, error)


def _plain(request: Request, refusal: dict[str, object], arguments: list[str]) -> NoReturn:
    code, message = refusal.get("code"), refusal.get("message")
    enforced = policies(request)
    if enforced:
        raise LinkError(
            "start/policy",
            f"there is no image of {request.program}, and `{', '.join(enforced)}` must be enforced",
            place=Place(request.program),
            notes=(f"{code}: {message}",),
            help="run it without the module if it may run unprotected",
        )
    if os.environ.get("SPIDL_VERBOSE"):
        print(f"spidl: plain way: refused[{code}]: {message}", file=sys.stderr)
    _execute(request.program, arguments)


def _execute(path: str, arguments: list[str]) -> NoReturn:
    """Exec as whoever started us would have: Python's own changes of the process are undone."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it is where the descriptor was closed at start
            stream.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(path, arguments, _environment())
    except OSError as error:
        raise LinkError(
            "start/exec",
            f"cannot execute: {error.strerror}",
            place=Place(path),
            help="check the file's permissions and its format",
        ) from None


def _environment() -> dict[bytes, bytes]:
    """The environment without the LC_CTYPE that Python sets itself in the C locale (PEP 538)."""
    variables = dict(os.environb)
    if variables.get(b"LC_CTYPE") in (b"C.UTF-8", b"C.utf8", b"UTF-8"):
        with suppress(OSError), open("/proc/self/environ", "rb") as file:
            given = file.read().split(b"\0")
            if not any(variable.startswith(b"LC_CTYPE=") for variable in given):
                del variables[b"LC_CTYPE"]
    return variables
