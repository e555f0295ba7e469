"""Measure everything and write docs/numbers.md with its charts.

``python -m benchmarks.numbers [--quick] [--output FOLDER] [--json FILE] [--from FILE]``
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.charts import draw_all
from benchmarks.figures import Figures, read_figures, write_figures
from benchmarks.linking import measure_links, measure_relocations, measure_symbols
from benchmarks.measure import machine, progress
from benchmarks.memory import measure_memory, measure_shared_text
from benchmarks.page import render
from benchmarks.starts import measure_starts
from benchmarks.validation import measure_checks, measure_validation
from benchmarks.work import measure_work
from benchmarks.workspace import workspace

_DOCS = Path(__file__).resolve().parent.parent / "docs"


def measure(*, quick: bool) -> Figures:
    """Everything, one after the other: ten minutes, or one if it is to be ``quick``."""
    began = time.monotonic()
    with workspace(quick=quick) as space:
        space.spidl("build", "true", "-o", str(space.folder / "warm"))  # Python's own files
        starts, scale = measure_starts(space)
        figures: Figures = {
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "machine": machine(),
            "quick": quick,
            "seconds": 0,
            "starts": starts,
            "scale": scale,
            "memory": measure_memory(space),
            "shared_text": measure_shared_text(space),
            "validation": measure_validation(space),
            "checks": measure_checks(space),
            "links": measure_links(space),
            "by_symbols": measure_symbols(space),
            "by_relocations": measure_relocations(space),
            "work": measure_work(space),
            "missing": space.missing,
        }
    progress("")
    figures["seconds"] = time.monotonic() - began
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute, for a look")
    parser.add_argument(
        "--output", type=Path, default=_DOCS, metavar="FOLDER",
        help="where numbers.md, numbers.json and the folder numbers go (default: docs)",
    )  # fmt: skip
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="raw figures (default: beside the page)"
    )
    parser.add_argument(
        "--from", dest="kept", type=Path, metavar="FILE",
        help="measure nothing: write the page again from kept figures",
    )  # fmt: skip
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    figures: Path = options.json or options.output / "numbers.json"
    if options.kept is None:
        write_figures(measure(quick=options.quick), figures)
    # The page is always made from kept figures: both ways give the same one.
    kept = read_figures(options.kept or figures)
    page: Path = options.output / "numbers.md"
    page.write_text(render(kept), encoding="utf-8")
    draw_all(kept, options.output / "numbers")
    print(page)


if __name__ == "__main__":
    main()
