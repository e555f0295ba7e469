"""``spidl bench``: start times under the system's linker and as an image, side by side."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from spidl.cli.reading import request_of
from spidl.cli.tables import BOLD, paint, plain, table, write, write_json
from spidl.diagnostics import LinkError, Place
from spidl.session import Request, build

_WARM_UP = 3
_MOST_RUNS = 100_000


@dataclass(slots=True)
class Way:
    """One way to start the program, and what its runs took."""

    name: str
    path: str
    link: float | None = None
    """Seconds that linking took."""
    size: int | None = None
    """Bytes of the image."""
    times: list[float] = field(default_factory=list)
    """Seconds from spawn to exit, a run each."""
    faults: list[int] = field(default_factory=list)
    """Page faults without I/O (ru_minflt), a run each."""
    status: int | None = None

    def run(self, argv: list[str], *, kept: bool = True) -> None:
        """Start it once, with output to /dev/null, and wait.  Raises `LinkError`."""
        null = os.devnull
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, null, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, null, os.O_WRONLY, 0),
        ]
        began = time.perf_counter()
        try:
            child = os.posix_spawn(self.path, argv, os.environ, file_actions=actions)
        except OSError as error:
            raise LinkError(
                "start/exec", f"cannot execute: {error.strerror}", place=Place(self.path),
                help="check the file's permissions and its format",
            ) from None  # fmt: skip
        _, status, usage = os.wait4(child, 0)
        took = time.perf_counter() - began
        self.status = status
        if kept:
            self.times.append(took)
            self.faults.append(usage.ru_minflt)


def bench(options: argparse.Namespace) -> int:
    """Build both images, run all three ways in turn, and print medians and ratios.

    Raises `LinkError`, also `Refusal` where there can be no image.
    """
    runs = options.runs
    if not 1 <= runs <= _MOST_RUNS:
        raise LinkError(
            "cli/usage", f"--runs {runs} is not between 1 and {_MOST_RUNS}",
            place=Place("command line", "--runs"), help="some 50 runs give a steady median",
        )  # fmt: skip
    request = request_of(options)
    argv = [options.program, *options.arguments]
    with tempfile.TemporaryDirectory(prefix="spidl-bench-") as folder:
        ways = [Way("ld.so", request.program), *_images(request, folder)]
        _check_images(ways, argv)
        for _ in _progress(runs):
            for way in ways:  # interleaved: a busy moment hits all of them
                way.run(argv)
            ways.append(ways.pop(0))
    ways.sort(key=lambda way: ("ld.so", "image, shared", "image, copied").index(way.name))
    if options.json:
        write_json(_json(argv, ways))
    else:
        write(_text(argv, ways))
    return 0


def _images(request: Request, folder: str) -> Iterator[Way]:
    from spidl.targets.exec.writer import write_image

    for layout, name in (("shared", "image, shared"), ("copy", "image, copied")):
        path = os.path.join(folder, layout)
        began = time.perf_counter()
        content, _ = build(replace(request, layout=layout))
        write_image(path, content)
        yield Way(name, path, time.perf_counter() - began, len(content))


def _check_images(ways: Sequence[Way], argv: list[str]) -> None:
    """Warm up; the ways must end alike, and no image may leave for the plain way.

    Raises `LinkError` ``bench/plain-way``, ``bench/different``.
    """
    for way in ways[1:]:
        reason = _plain_reason(way.path, argv)
        if reason is not None:
            raise LinkError(
                "bench/plain-way",
                f"the {way.name} does not start: it takes the plain way",
                place=Place(ways[0].path),
                notes=(reason,),
                help="what changed since the link a moment ago? see the reason above",
            )
    for _ in range(_WARM_UP):
        for way in ways:
            way.run(argv, kept=False)
    for way in ways[1:]:
        if way.status != ways[0].status:
            raise LinkError(
                "bench/different",
                f"the {way.name} ends with wait status {way.status}, under ld.so with "
                f"{ways[0].status}",
                place=Place(ways[0].path),
                help="a program that ends differently by itself cannot be compared",
            )


def _plain_reason(path: str, argv: list[str]) -> str | None:
    """Boot's message if this image takes the plain way, None if it does not."""
    with tempfile.TemporaryFile() as output:
        number = output.fileno()
        child = os.posix_spawn(
            path, argv, {**os.environ, "SPIDL_VERBOSE": "1"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, number, 2),
            ],
        )  # fmt: skip
        os.waitpid(child, 0)
        output.seek(0)
        for line in output.read(1 << 20).splitlines():
            if line.startswith(b"spidl: plain way"):
                return line.decode(errors="replace")
    return None


def _progress(runs: int) -> Iterator[int]:
    """Count runs, shown on a terminal only."""
    visible = sys.stderr.isatty()
    try:
        for run in range(runs):
            if visible and run % 5 == 0:
                print(f"\rrun {run} of {runs}", end="", file=sys.stderr, flush=True)
            yield run
    finally:
        if visible:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _ratios(way: Way, base: Way) -> list[float]:
    """How many times faster than ``base``, run by run of the same round."""
    return [b / w for w, b in zip(way.times, base.times, strict=True)]


def _json(argv: list[str], ways: Sequence[Way]) -> dict[str, object]:
    return {
        "command": list(argv),
        "runs": len(ways[0].times),
        "ways": [
            {
                "name": way.name,
                "median_seconds": statistics.median(way.times),
                "faster": statistics.median(_ratios(way, ways[0])),
                "page_faults": statistics.median(way.faults),
                "link_seconds": way.link,
                "image_bytes": way.size,
                "seconds": way.times,
            }
            for way in ways
        ],
    }


def _text(argv: list[str], ways: Sequence[Way]) -> list[str]:
    def spread(way: Way) -> str:
        if len(way.times) < 4:
            return "-"
        low, _, high = statistics.quantiles(way.times, n=4)
        return f"{low * 1e3:.2f}-{high * 1e3:.2f}"

    rows = [
        (
            way.name,
            f"{statistics.median(way.times) * 1e3:.2f}",
            spread(way),
            "" if way is ways[0] else f"{statistics.median(_ratios(way, ways[0])):.2f} times",
            f"{statistics.median(way.faults):.0f}",
            "-" if way.size is None else f"{way.size / 1e6:.2f}",
            "-" if way.link is None else f"{way.link:.2f}",
        )
        for way in ways
    ]
    heading = ("WAY", "MS", "QUARTILES", "FASTER", "FAULTS", "MB", "LINK S")
    return [
        paint(plain(f"{' '.join(argv)}: {len(ways[0].times)} runs, medians"), BOLD),
        *table(heading, rows, numbers="MS QUARTILES FASTER FAULTS MB"),
    ]
