"""``spidl run``: start a program through its image."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from spidl.diagnostics import LinkError, Place
from spidl.session import Request, cached_image, find_program, policies


def run(options: argparse.Namespace) -> int:
    """Exec the cached image, linked now if need be; where there can be none, the plain way.

    A module that enforces a policy turns the plain way into an error.
    """
    program = find_program(options.program)
    request = Request(program, tuple(options.extra), options.layout, options.config,
                      tuple(options.settings))  # fmt: skip
    arguments = [options.program, *options.arguments]
    try:
        entry = cached_image(request)
    except LinkError as error:
        if error.code != "cache/cannot-write" or policies(request):
            raise
        print(error.diagnostic, file=sys.stderr)
        _execute(program, arguments)
    if entry.image is None:
        return _plain(request, entry.refusal or {}, arguments)
    _execute(entry.image, arguments)


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
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(path, arguments)
    except OSError as error:
        raise LinkError(
            "start/exec",
            f"cannot execute: {error.strerror}",
            place=Place(path),
            help="check the file's permissions and its format",
        ) from None
