"""``spidl run``: start a program through its image."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from spidl.cache.store import Entry
from spidl.diagnostics import LinkError, Place, Severity, fault
from spidl.session import Request, cached_image, find_program, policies

_OF_THE_IMAGE = (errno.EACCES, errno.ENOENT, errno.ENOEXEC, errno.EPERM)
"""execve(2) fails so for the image's own sake, for instance on a file system mounted noexec."""


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
            _warn_and_execute(error, program, arguments)
        if entry.image is None:
            return _plain(request, entry.refusal or {}, arguments)
        try:
            _replace_process(entry.image, arguments)
        except OSError as error:
            # Removed since it was found, say by somebody who empties the cache: once more.
            if os.path.exists(entry.image):
                failure = _cannot_execute(entry.image, error)
                if error.errno not in _OF_THE_IMAGE or policies(request):
                    raise failure from None
                _warn_and_execute(failure, program, arguments)
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


def _warn_and_execute(error: LinkError, program: str, arguments: list[str]) -> NoReturn:
    error.with_note("the program starts the plain way, under the system's linker")
    print(replace(error.diagnostic, severity=Severity.WARNING), file=sys.stderr)
    _execute(program, arguments)


def _execute(path: str, arguments: list[str]) -> NoReturn:
    try:
        _replace_process(path, arguments)
    except OSError as error:
        raise _cannot_execute(path, error) from None


def _cannot_execute(path: str, error: OSError) -> LinkError:
    return LinkError(
        "start/exec",
        f"cannot execute: {error.strerror}",
        place=Place(path),
        help="check the file's permissions, its format and whether its file system is `noexec`",
    )


def _replace_process(path: str, arguments: list[str]) -> NoReturn:
    """Exec as whoever started us would have: Python's own changes of the process are undone."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it is where the descriptor was closed at start
            stream.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execve(path, arguments, _environment())


def _environment() -> dict[bytes, bytes]:
    """The environment without the LC_CTYPE that Python sets itself in the C locale (PEP 538)."""
    variables = dict(os.environb)
    if variables.get(b"LC_CTYPE") in (b"C.UTF-8", b"C.utf8", b"UTF-8"):
        with suppress(OSError), open("/proc/self/environ", "rb") as file:
            given = file.read().split(b"\0")
            if not any(variable.startswith(b"LC_CTYPE=") for variable in given):
                del variables[b"LC_CTYPE"]
    return variables
