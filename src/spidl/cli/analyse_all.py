"""``spidl analyse --all``: every ELF file of folders, and what the store tells about them."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from types import FrameType

from spidl.cli.tables import BOLD, paint, plain, write, write_json
from spidl.diagnostics import LinkError, Place
from spidl.distribution.figures import Figures, read_figures
from spidl.distribution.objects import Objects, is_url
from spidl.distribution.pool import Pool, cores
from spidl.distribution.report import render
from spidl.distribution.run import Counts, Run
from spidl.distribution.store import Store
from spidl.distribution.values import Sink, Workers
from spidl.files import write_whole

TIMEOUT = 600.0
"""Seconds a file: the largest take one minute."""
_INTERVAL = 0.1


def analyse_all(options: argparse.Namespace) -> int:
    """Analyse folders, take other stores in, write the report: 2 where a file failed.

    Raises `LinkError` ``cli/usage``, ``distribution/...``.
    """
    if options.files or options.embed or options.output is not None or options.functions:
        raise LinkError(
            "cli/usage", "--all, --merge and --report are about folders and stores, not files",
            help="see spidl analyse --help",
        )  # fmt: skip
    signal.signal(signal.SIGTERM, _interrupt)
    url = options.store if is_url(options.store) else None
    if url is not None and (options.merge or options.report):
        raise LinkError(
            "cli/usage", "a store with a URL is collected into one with a path first",
            help=f"spidl analyse --merge {url} --store FILE.db --report FILE.html",
        )  # fmt: skip
    began = time.perf_counter()
    counts = Counts()
    told: list[str] = []
    if url is not None:
        counts = _run(options, Objects(url), url)
        if options.json:
            write_json({"run": _counts(counts)})
        else:
            write(_run_text(options, counts))
        return 2 if counts.failed else 0
    with Store(options.store, create=bool(options.folders or options.merge)) as store:
        for other in options.merge:
            told += _merge(store, other)
        if options.folders:
            counts = _run(options, store, None)
            told += _run_text(options, counts)
        figures = None
        if options.report or options.json:
            figures = _figures(store)
        if options.report:
            _write(options.report, render(figures or _figures(store), _title(options)))
            told.append(plain(f"report: {options.report}"))
    if options.json:
        assert figures is not None, "they were read for it"
        write_json({"run": _counts(counts), "seconds": time.perf_counter() - began,
                    **figures.to_json()})  # fmt: skip
    else:
        write(told)
    return 2 if counts.failed else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _workers(options: argparse.Namespace, url: str | None) -> Workers:
    timeout = TIMEOUT if options.timeout is None else options.timeout
    if not timeout > 0:
        raise LinkError("cli/usage", f"--timeout {timeout:g} is not above 0", help="leave it out")
    if options.scheduler is not None:
        from spidl.distribution.cluster import Cluster  # Dask's own imports take half a second

        return Cluster(options.scheduler, timeout, url)
    jobs = cores() if options.jobs is None else options.jobs
    if jobs < 1:
        raise LinkError("cli/usage", f"--jobs {jobs} is less than 1", help="leave it out")
    return Pool(jobs, timeout)


def _run(options: argparse.Namespace, sink: Sink, url: str | None) -> Counts:
    bar = _Bar()
    run = Run(sink, _workers(options, url), bar.show, retry=options.retry)
    try:
        return run.over(options.folders)
    except KeyboardInterrupt:
        bar.clear()
        print(f"spidl: stopped; {run.counts.analysed} files are done and kept, the same command "
              "goes on", file=sys.stderr)  # fmt: skip
        raise
    finally:
        bar.clear()


def _merge(store: Store, other: str) -> list[str]:
    if not is_url(other):
        store.merge(other)
        return [plain(f"merged: {other}")]
    damaged = Objects(other).collect(store)
    lines = [plain(f"merged: {other}")]
    return [*lines, *(plain(f"damaged, left out: {path}") for path in damaged)]


def _figures(store: Store) -> Figures:
    bar = _Bar()
    try:
        return read_figures(store, lambda done, total: bar.draw(done, total, "combining"))
    finally:
        bar.clear()


def _title(options: argparse.Namespace) -> str:
    names = [os.path.basename(os.path.abspath(folder)) or folder for folder in options.folders]
    return f"System calls of {', '.join(names or [os.path.basename(options.store)])}"


def _write(path: str, page: str) -> None:
    try:
        write_whole(path, page.encode(), 0o644)
    except OSError as error:
        raise LinkError(
            "cli/cannot-write", f"cannot write the report: {error.strerror}", place=Place(path),
            help="give another path to --report",
        ) from None  # fmt: skip


def _counts(counts: Counts) -> dict[str, object]:
    return {
        "files": counts.files, "packages": counts.packages, "known": counts.known,
        "analysed": counts.analysed, "failed": counts.failed, "seconds": counts.seconds,
    }  # fmt: skip


def _run_text(options: argparse.Namespace, counts: Counts) -> list[str]:
    packages = f" in {counts.packages} packages" if counts.packages else ""
    return [
        paint(f"{counts.analysed} files analysed in {counts.seconds:.1f} s", BOLD),
        f"{counts.files} looked at{packages}, {counts.known} known already, {counts.failed} failed",
        plain(f"store: {options.store}"),
    ]


class _Bar:
    """One line on standard error while it is a terminal: how far, and what is being done."""

    def __init__(self) -> None:
        self._drawn = 0.0
        self._shown = sys.stderr.isatty()

    def show(self, counts: Counts) -> None:
        """How far a run is; the number of files grows while packages are read."""
        todo = counts.packages - counts.packages_read
        more = f" + {todo} packages" if todo else ""
        failed = f" ({counts.failed} failed)" if counts.failed else ""
        self.draw(counts.analysed, counts.wanted, f"{failed}{more} {', '.join(counts.running)}")

    def draw(self, done: int, total: int, text: str) -> None:
        """Draw it, ten times a second at most."""
        now = time.monotonic()
        if not self._shown or now - self._drawn < _INTERVAL:
            return
        self._drawn = now
        width = max(10, min(30, shutil.get_terminal_size().columns // 3))
        full = width * done // max(total, 1)
        line = f"[{'#' * full}{'.' * (width - full)}] {done}/{total} {plain(text.strip())}"
        sys.stderr.write(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take it away."""
        if self._shown and self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
