"""How fast programs start: under ld.so, as an image (shared, copied), against static programs.

``python -m benchmarks.start [--quick] [--json FILE] [--chart FILE]``
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Sample, machine, once, private_memory, side_by_side

PROGRAMS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("true", (), "coreutils"),
    ("ls", ("/",), "coreutils"),
    ("git", ("--version",), "git"),
    ("sqlite3", ("-version",), "sqlite3"),
    ("perl", ("-e", "1"), "perl-base"),
    ("perf", ("--version",), "linux-perf"),
    ("clang", ("--version",), "clang"),
    ("ffmpeg", ("-version",), "ffmpeg"),
)
"""Program, arguments, the Debian package to install when it is missing."""

WAITING: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("cat", ()),
    ("bash", ("--norc", "-s")),
    ("sqlite3", ()),
    ("perl", ("-",)),
    ("ffmpeg", ("-i", "pipe:0", "-f", "null", "-")),
)
"""Programs that wait for standard input, for their private memory."""

LINKED = ("true", "ls", "git", "perf", "clang", "ffmpeg")

_NOLIBC = (
    'void _start(void){__asm__ volatile("mov $60,%eax; xor %edi,%edi; syscall");}',
    ("-nostdlib", "-static"),
)
_EMPTY = "int main(void){return 0;}"


def find(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        sys.exit(f"bench: {name} is missing; install the package {package}")
    return path


def compile_c(folder: Path, name: str, source: str, *flags: str) -> str:
    (folder / f"{name}.c").write_text(source)
    output = str(folder / name)
    subprocess.run(["gcc", "-O2", *flags, "-o", output, str(folder / f"{name}.c")], check=True)
    return output


def image(program: str, folder: Path, layout: str) -> str:
    output = str(folder / f"{Path(program).name}.{layout}")
    command = [sys.executable, "-m", "spidl", "build", program, f"--layout={layout}", "-o", output]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return output


def measure_starts(folder: Path, runs: int) -> dict[str, dict[str, Sample]]:
    """Samples by program and candidate; ``main(){}`` has the static programs beside it."""
    empty = compile_c(folder, "main", _EMPTY)
    table = {
        "main(){}": {
            "ld.so": [empty],
            "shared": [image(empty, folder, "shared")],
            "copied": [image(empty, folder, "copy")],
            "static glibc": [compile_c(folder, "static", _EMPTY, "-static")],
            "no libc": [compile_c(folder, "nolibc", _NOLIBC[0], *_NOLIBC[1])],
        }
    }
    for name, arguments, package in PROGRAMS:
        path = find(name, package)
        table[name] = {
            "ld.so": [path, *arguments],
            "shared": [image(path, folder, "shared"), *arguments],
            "copied": [image(path, folder, "copy"), *arguments],
        }
    samples = {}
    for name, candidates in table.items():
        progress(f"timing {name}")
        slow = once(candidates["ld.so"])[0] > 0.01
        samples[name] = side_by_side(candidates, max(10, runs // 8) if slow else runs)
    return samples


def measure_memory(folder: Path) -> dict[str, dict[str, int]]:
    """Private kB by program and candidate."""
    found = {}
    for name, arguments in WAITING:
        path = shutil.which(name)
        if path is None:
            sys.exit(f"bench: {name} is missing")
        progress(f"memory of {name}")
        found[name] = {
            "ld.so": private_memory([path, *arguments]),
            "shared": private_memory([image(path, folder, "shared"), *arguments]),
            "copied": private_memory([image(path, folder, "copy"), *arguments]),
        }
    return found


def measure_links(folder: Path, runs: int) -> dict[str, float]:
    """Seconds of a whole cold `spidl build`, median."""
    found = {}
    for name in LINKED:
        progress(f"linking {name}")
        path = find(name, name)
        seconds = []
        for _ in range(runs):
            began = time.perf_counter()
            image(path, folder, "shared")
            seconds.append(time.perf_counter() - began)
        found[name] = statistics.median(seconds)
    return found


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text} ...", end="", file=sys.stderr, flush=True)


def table_of(
    starts: dict[str, dict[str, Sample]], memory: dict[str, dict[str, int]], links: dict[str, float]
) -> str:
    """The figures as text."""
    lines = [
        "Start until exit, median ms (ratio to ld.so)",
        f"{'program':10} {'ld.so':>8} {'shared':>15} {'copied':>15}   page faults",
    ]
    for name, row in starts.items():
        base = row["ld.so"].milliseconds
        cells = [f"{row[k].milliseconds:8.3f} ({base / row[k].milliseconds:.2f}x)"
                 for k in ("shared", "copied")]  # fmt: skip
        faults = " / ".join(f"{row[k].faults:.0f}" for k in ("ld.so", "shared", "copied"))
        lines.append(f"{name:10} {base:8.3f} {cells[0]:>15} {cells[1]:>15}   {faults}")
    scale = starts["main(){}"]
    lines.append(
        f"for scale: main(){{}} static glibc {scale['static glibc'].milliseconds:.3f}, "
        f"no libc {scale['no libc'].milliseconds:.3f}"
    )
    lines += ["", "Private memory of a waiting process, kB: ld.so / shared / copied"]
    for name, kilobytes in memory.items():
        lines.append(f"{name:10} " + " ".join(f"{value:>8}" for value in kilobytes.values()))
    lines += ["", "Cold link, seconds, the whole `spidl build`"]
    lines += [f"{name:10} {seconds:8.2f}" for name, seconds in links.items()]
    return "\n".join(lines)


def draw(starts: dict[str, dict[str, Sample]], path: str, title: str) -> None:
    """A bar chart on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(starts)
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    for i, (candidate, colour) in enumerate(
        (("ld.so", "#888888"), ("shared", "#1f77b4"), ("copied", "#2ca02c"))
    ):
        values = [starts[name][candidate].milliseconds for name in names]
        bars = axes.bar([x + 0.27 * (i - 1) for x in range(len(names))], values, 0.26,
                        label=candidate, color=colour)  # fmt: skip
        axes.bar_label(bars, fmt="%.2f", fontsize=6, padding=1)
    axes.axhline(starts["main(){}"]["static glibc"].milliseconds, color="#d62728", linewidth=0.8,
                 linestyle="--", label="static glibc main(){}")  # fmt: skip
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("start until exit, ms (median)")
    axes.set_title(title, fontsize=8)
    axes.legend(fontsize=8)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--chart", metavar="FILE", help="SVG, PNG or PDF")
    options = parser.parse_args()
    runs = 40 if options.quick else 300
    with tempfile.TemporaryDirectory(prefix="spidl-bench-") as name:
        folder = Path(name)
        starts = measure_starts(folder, runs)
        memory = measure_memory(folder)
        links = measure_links(folder, 1 if options.quick else 3)
    progress("")
    print(f"machine: {machine()}\n")
    print(table_of(starts, memory, links))
    if options.chart:
        draw(starts, options.chart, machine())
        print(f"\nchart: {options.chart}")
    if options.json:
        content = {
            "machine": machine(),
            "starts": {n: {k: [s.milliseconds, s.fastest, s.faults] for k, s in r.items()}
                       for n, r in starts.items()},
            "private_kb": memory,
            "link_seconds": links,
        }  # fmt: skip
        Path(options.json).write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
