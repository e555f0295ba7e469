"""A run: find the files, analyse those that the store does not know, keep each outcome at once."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from spidl.analyse.summary import VERSION
from spidl.diagnostics import Diagnostic, LinkError
from spidl.distribution.debs import read_package
from spidl.distribution.files import Found, Root, unit_of, walk
from spidl.distribution.values import Job, Outcome, Sink, Unit, Workers

_SPOOL = "spidl-unpacked-"
_WAITING = 4
"""Jobs a worker that may wait, unpacked, before no further package is read."""


@contextmanager
def _spool() -> Iterator[str]:
    """A folder to unpack into; those of runs that were killed are removed."""
    for left in glob.glob(os.path.join(tempfile.gettempdir(), f"{_SPOOL}*")):
        pid = os.path.basename(left).removeprefix(_SPOOL).partition("-")[0]
        if pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_SPOOL}{os.getpid()}-") as folder:
        yield folder


@dataclass(slots=True)
class Counts:
    """How far a run is, and at its end what became of it."""

    files: int = 0
    """ELF files found."""
    packages: int = 0
    """Debian packages found."""
    packages_read: int = 0
    """Those that are read or need not be."""
    known: int = 0
    """Files whose summary the store had, or that are copies of others."""
    wanted: int = 0
    """Files to analyse, as far as they are found."""
    analysed: int = 0
    failed: int = 0
    """Files and packages that could not be analysed."""
    running: list[str] = field(default_factory=list)
    """Names of what is being done."""
    seconds: float = 0.0


class Run:
    """One run over some folders."""

    def __init__(
        self, sink: Sink, workers: Workers, tell: Callable[[Counts], None], *, retry: bool = False
    ) -> None:
        """``tell`` is called whenever the counts change; ``retry`` does failed files again."""
        self.counts = Counts()
        self._sink = sink
        self._workers = workers
        self._tell = tell
        self._done = sink.known(VERSION, failures=not retry)
        """Build-ids that need no job: known, or on their way."""
        self._jobs: deque[Job] = deque()
        self._analysing: dict[Future[Outcome], Job] = {}
        self._unpacking: dict[Future[list[Unit]], Found] = {}

    def over(self, folders: Sequence[str]) -> Counts:
        """Analyse all that is new under the folders.

        Raises LinkError ``distribution/no-folder``, and what sink and workers raise; then, and on
        KeyboardInterrupt, what was finished is in the sink.
        """
        began = time.monotonic()
        unpackers = max(1, min(4, self._workers.size // 4))
        analysing = ThreadPoolExecutor(self._workers.size)
        unpacking = ThreadPoolExecutor(unpackers)
        with _spool() as spool:
            try:
                for folder in folders:
                    self._over(os.path.abspath(folder), analysing, unpacking, unpackers, spool)
            finally:
                self.counts.seconds = time.monotonic() - began
                self._workers.stop()
                analysing.shutdown(cancel_futures=True)
                unpacking.shutdown(cancel_futures=True)
        return self.counts

    def _over(
        self, folder: str, analysing: ThreadPoolExecutor, unpacking: ThreadPoolExecutor,
        unpackers: int, spool: str,
    ) -> None:  # fmt: skip
        packages = deque(self._find(folder))
        archives = {found.path for found in packages}
        while self._jobs or packages or self._analysing or self._unpacking:
            while self._jobs and len(self._analysing) < self._workers.size:
                job = self._jobs.popleft()
                self._analysing[analysing.submit(self._workers.analyse, job)] = job
            room = len(self._jobs) < _WAITING * self._workers.size
            while packages and room and len(self._unpacking) < unpackers:
                found = packages.popleft()
                if self._sink.has_archive(found.path, found.size, found.mtime_ns, VERSION):
                    self.counts.packages_read += 1
                else:
                    self._unpacking[unpacking.submit(read_package, found.path, spool)] = found
            self._say()
            if self._analysing or self._unpacking:
                pending: list[Future[Any]] = [*self._analysing, *self._unpacking]
                self._take(wait(pending, return_when=FIRST_COMPLETED).done, spool)
        self._sink.settle(folder, archives)

    def _find(self, folder: str) -> list[Found]:
        """Enter the files of a tree, the largest first; gives its packages."""
        root = Root(folder)
        packages, units = [], []
        for found in walk(folder):
            if found.is_package:
                packages.append(found)
                self.counts.packages += 1
            else:
                path = root.path_of(found.path)
                with suppress(OSError):  # it has gone, or may not be read
                    unit = unit_of(root.package_of(path), path, found.path, found.size,
                                   found.links)  # fmt: skip
                    units += [] if unit is None else [unit]
        self._sink.add(folder, units)
        self._enter(sorted(units, key=lambda unit: -unit.size), "")
        return packages

    def _enter(self, units: Sequence[Unit], spool: str) -> None:
        self.counts.files += len(units)
        for unit in units:
            if unit.build_id in self._done:
                self.counts.known += 1
                self._drop(unit.content, spool)
                continue
            self._done.add(unit.build_id)
            self.counts.wanted += 1
            name = unit.path if unit.package == unit.path else f"{unit.package}: {unit.path}"
            self._jobs.append(Job(unit.build_id, unit.content, name, unit.size))

    def _take(self, finished: set[Future[Any]], spool: str) -> None:
        for future in finished:
            if future in self._analysing:
                job = self._analysing.pop(future)
                outcome: Outcome = future.result()
                if outcome.summary is not None or outcome.error is not None:
                    self._sink.put(outcome)  # else the worker has done so
                self.counts.analysed += 1
                self.counts.failed += outcome.error is not None
                self._drop(job.path, spool)
            else:
                self._package(self._unpacking.pop(future), future, spool)

    def _package(self, found: Found, future: Future[list[Unit]], spool: str) -> None:
        error: Diagnostic | None = None
        units: list[Unit] = []
        try:
            units = future.result()
        except LinkError as raised:
            if raised.code == "distribution/spool":
                raise
            error = raised.diagnostic
            self.counts.failed += 1
        self.counts.packages_read += 1
        self._sink.add_archive(found.path, found.size, found.mtime_ns, units, error)
        self._enter(units, spool)

    def _drop(self, content: str, spool: str) -> None:
        """Remove an unpacked file."""
        if spool and os.path.dirname(content) == spool:
            with suppress(OSError):
                os.unlink(content)

    def _say(self) -> None:
        unpacking = [os.path.basename(found.path) for found in self._unpacking.values()]
        self.counts.running = [job.name for job in self._analysing.values()] + unpacking
        self._tell(self.counts)
