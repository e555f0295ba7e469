"""The process that analyses: reads jobs from a connection and answers them, one by one.

    python -m spidl.distribution.worker DESCRIPTOR ANALYSER

ANALYSER is ``MODULE:FUNCTION``, a function from `ElfFile` to `Summary`.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection

from spidl import __version__
from spidl.analyse.summary import VERSION, Summary
from spidl.diagnostics import LinkError, Place, fault
from spidl.distribution.files import identity
from spidl.distribution.values import Outcome
from spidl.elf import ElfFile

Analyser = Callable[[ElfFile], Summary]
VERSIONS = (__version__, VERSION)
"""Spidl's and the analyser's."""


def outcome_of(analyse: Analyser, build_id: str, name: str, source: str | bytes) -> Outcome:
    """Analyse a file by its path or its bytes; whatever goes wrong is in the outcome."""
    began = time.process_time()

    def failed(error: LinkError) -> Outcome:
        diagnostic = replace(error.diagnostic, place=error.diagnostic.place or Place(name))
        return Outcome.failed(build_id, VERSION, diagnostic, time.process_time() - began)

    try:
        file = ElfFile.open(source) if isinstance(source, str) else ElfFile.parse(source, name)
        if identity(file) != build_id:
            raise LinkError(
                "distribution/changed", "the file is another one than a moment ago",
                place=Place(name), help="let an update finish, then start again",
            )  # fmt: skip
        summary = analyse(file).to_bytes()
    except LinkError as error:
        return failed(error)
    except Exception as error:  # one file must not end the others
        return failed(fault(error))
    return Outcome(build_id, VERSION, summary, time.process_time() - began)


def main(descriptor: int, analyser: str) -> None:
    """Serve until the other end is closed."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    connection = Connection(descriptor)
    module, _, name = analyser.partition(":")
    analyse: Analyser = getattr(importlib.import_module(module), name)
    connection.send(VERSIONS)
    while True:
        try:
            build_id, name, source = connection.recv()
        except EOFError:
            return
        connection.send(outcome_of(analyse, build_id, name, source))


def _end_with(parent: int) -> None:
    """A parent that is killed closes the connection, which a file that hangs would not notice."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
