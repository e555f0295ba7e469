"""A child process that analyses one file at a time, and can be lost without losing more.

A file that makes the analyser crash, hang or use up the memory costs this child only; the next
file gets a new one.  A child ends by itself when its parent does.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection

from spidl import __version__
from spidl.analyse.summary import VERSION
from spidl.diagnostics import Diagnostic, LinkError, Place
from spidl.distribution.values import Job, Outcome, stopped

ANALYSER = "spidl.analyse:analyse"
_STARTING = 120.0
"""Seconds in which a child has imported what it needs, on the slowest machine."""


class Lane:
    """One child, started when it is first needed."""

    def __init__(self, timeout: float, analyser: str = ANALYSER) -> None:
        """``timeout`` is in seconds a file, ``analyser`` as for `spidl.distribution.worker`."""
        self._timeout = timeout
        self._analyser = analyser
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._is_stopped = False

    def analyse(self, job: Job, content: bytes | None = None) -> Outcome:
        """Analyse a file by its path, or by its bytes where they are given.

        Raises LinkError ``distribution/worker`` where no child starts, ``distribution/version``
        where it has another Spidl, ``distribution/stopped`` after `stop`.
        """
        connection = self._connection or self._start()
        try:
            connection.send((job.build_id, job.name, job.path if content is None else content))
            if not connection.poll(self._timeout):
                self._end()
                return self._lost(
                    job, "distribution/timeout",
                    f"the analysis took longer than {self._timeout:g} s",
                    "--timeout gives it more, with --retry",
                )  # fmt: skip
            outcome: Outcome = connection.recv()
        except (EOFError, OSError):
            code = self._end()
            if self._is_stopped:
                raise stopped() from None
            how = f"by signal {-code}" if code < 0 else f"with status {code}"
            return self._lost(
                job, "distribution/crash", f"the process that analysed it ended {how}",
                "--retry tries again; signal 9 may mean that memory ran out: use fewer --jobs",
            )  # fmt: skip
        return outcome

    def _lost(self, job: Job, code: str, message: str, help: str) -> Outcome:
        told = Diagnostic(code, message, Place(job.name), help=help)
        return Outcome.failed(job.build_id, VERSION, told)

    def _start(self) -> Connection:
        ours, theirs = multiprocessing.Pipe()
        with theirs, self._lock:
            if self._is_stopped:
                raise stopped()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "spidl.distribution.worker", str(theirs.fileno()),
                 self._analyser],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if os.environ.get("SPIDL_TRACEBACK") else subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the parent to pass on
            )  # fmt: skip
            self._connection = ours
        with suppress(EOFError, OSError):
            if ours.poll(_STARTING):
                found = ours.recv()
                if found == (__version__, VERSION):
                    return ours
                self._end()
                raise LinkError(
                    "distribution/version", "Spidl was updated while this run went on",
                    place=Place(sys.executable), help="start it again: it goes on where it was",
                )  # fmt: skip
        self._end()
        if self._is_stopped:
            raise stopped()
        raise LinkError(
            "distribution/worker", "the process that analyses files does not start",
            place=Place(sys.executable), help="SPIDL_TRACEBACK=1 shows what it says",
        )  # fmt: skip

    def _end(self) -> int:
        """Kill the child if it still runs; gives its exit status."""
        with self._lock:
            child, self._child = self._child, None
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        if child is None:
            return 0
        with suppress(subprocess.TimeoutExpired):
            return child.wait(0.1)  # what crashed by itself has a status of its own
        child.kill()
        return child.wait()

    def stop(self) -> None:
        """End the child, from any thread; an `analyse` that waits raises."""
        self._is_stopped = True
        with self._lock:
            if self._child is not None:
                self._child.kill()
