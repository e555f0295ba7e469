"""``spidl run``, where it comes to Python: the launcher starts programs, Python does not."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from spidl.cache.host import own_inputs
from spidl.diagnostics import LinkError, Place
from spidl.launch import LAUNCHER, command
from spidl.session import find_program


def run(options: argparse.Namespace, words: Sequence[str]) -> NoReturn:
    """Hand the command line to the launcher.

    Raises `LinkError` ``collect/no-program``, ``collect/not-a-program``, ``start/no-launcher``.
    """
    find_program(options.program)  # its errors say more than the launcher's
    own_inputs()  # in a source tree, files that were edited make another Spidl
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # it is where the descriptor was closed at start
            stream.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(LAUNCHER, command(*words), _environment())
    except OSError as error:
        raise LinkError(
            "start/exec",
            f"cannot execute: {error.strerror}",
            place=Place(LAUNCHER),
            help="check the file's permissions and whether its file system is `noexec`",
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
