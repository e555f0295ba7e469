"""How fast distributions are analysed: the first run, the next one, merging, combining, the page.

    python -m benchmarks.distribution [FOLDER]

FOLDER is a tree or has .deb files; some folders of this machine without it.  Nothing is kept.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from spidl.distribution.figures import Figures, read_figures
from spidl.distribution.files import walk
from spidl.distribution.pool import Pool, cores
from spidl.distribution.report import render
from spidl.distribution.run import Counts, Run
from spidl.distribution.store import Store

_DEFAULT = ("/usr/lib/git-core", "/usr/lib/openssh", "/usr/lib/x86_64-linux-gnu/gconv")
_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of each step, and what they were spent on."""

    megabytes: float
    first: Counts
    next_seconds: float
    merge_seconds: float
    figures: Figures
    combine_seconds: float
    page_bytes: int
    page_seconds: float
    store_bytes: int


def _run(store: str, folders: Sequence[str]) -> Counts:
    with Store(store) as sink:
        return Run(sink, Pool(cores(), _TIMEOUT), lambda _: None).over(folders)


def measure(folders: Sequence[str]) -> Measured:
    """Everything over some folders, in a store that is thrown away."""
    size = sum(found.size for folder in folders for found in walk(folder))
    with tempfile.TemporaryDirectory() as place:
        path = os.path.join(place, "a.db")
        first = _run(path, folders)
        again = _run(path, folders)
        began = time.perf_counter()
        with Store(os.path.join(place, "b.db")) as other:
            other.merge(path)
        merged = time.perf_counter()
        with Store(path) as store:
            figures = read_figures(store, lambda done, total: None)
        combined = time.perf_counter()
        page = render(figures, "benchmark")
        return Measured(
            size / 1e6, first, again.seconds, merged - began, figures, combined - merged,
            len(page), time.perf_counter() - combined, os.path.getsize(path),
        )  # fmt: skip


def text(found: Measured) -> list[str]:
    """The figures as lines."""
    first, figures = found.first, found.figures
    each = found.combine_seconds / max(1, len(figures.programs)) * 1e3
    return [
        f"{first.files} files, {first.packages} packages, {found.megabytes:.0f} MB, "
        f"{cores()} cores",
        f"first run    {first.seconds:8.2f} s   {first.analysed} analysed, {first.failed} failed, "
        f"{found.megabytes / first.seconds:.1f} MB/s, {figures.seconds:.1f} s of processor time",
        f"next run     {found.next_seconds:8.2f} s   nothing to do",
        f"merge        {found.merge_seconds:8.2f} s   {found.store_bytes / 1e6:.1f} MB",
        f"combine      {found.combine_seconds:8.2f} s   {len(figures.programs)} programs, "
        f"{len(figures.libraries)} libraries, {each:.1f} ms a program",
        f"page         {found.page_seconds:8.2f} s   {found.page_bytes / 1e3:.0f} kB",
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="*", metavar="FOLDER")
    folders = parser.parse_args().folders or [path for path in _DEFAULT if os.path.isdir(path)]
    print("\n".join(text(measure(folders))))


if __name__ == "__main__":
    main()
