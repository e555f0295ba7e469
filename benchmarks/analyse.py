"""How long the analysis takes, and what it finds, over all ELF files of folders.

    python -m benchmarks.analyse                       # this machine's programs and libraries
    python -m benchmarks.analyse --json FILE FOLDER...

One line a file goes to the JSON; the table has the sums.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

from spidl.analyse import analyse
from spidl.diagnostics import LinkError
from spidl.elf import PF, ElfFile

_FOLDERS = ("/usr/bin", "/usr/sbin", "/usr/lib/x86_64-linux-gnu")


@dataclass(frozen=True, slots=True)
class Result:
    """What one file cost (seconds, bytes) and gave."""

    path: str
    size: int
    text: int = 0
    seconds: float = 0.0
    packed: int = 0
    classes: int = 0
    exports: int = 0
    sites: int = 0
    """Places whose number is not known."""
    always_unknown: bool = False
    reasons: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    error: str = ""


def measure(path: str) -> Result:
    """Analyse one file."""
    size = os.path.getsize(path)
    began = time.perf_counter()
    try:
        file = ElfFile.open(path)
        summary = analyse(file)
    except LinkError as error:
        return Result(path, size, error=error.code)
    seconds = time.perf_counter() - began
    return Result(
        path,
        size,
        sum(load.filesz for load in file.loads if load.flags & PF.X),
        seconds,
        len(summary.to_bytes()),
        len(summary.classes),
        len(summary.exports),
        len(summary.unknown),
        summary.classes[summary.always].unknown,
        tuple(sorted({site.reason for site in summary.unknown}))[:4],
        tuple(sorted(summary.flags)),
    )


def elf_files(folders: list[str]) -> Iterator[str]:
    """Every ELF file under folders, each once however many names it has."""
    seen = set()
    for folder in folders:
        for where, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(where, name)
                try:
                    status = os.stat(path)
                    if os.path.islink(path) or (status.st_dev, status.st_ino) in seen:
                        continue
                    seen.add((status.st_dev, status.st_ino))
                    with open(path, "rb") as file:
                        head = file.read(20)
                except OSError:
                    continue
                # 64-bit x86-64 programs and shared objects; object files are not linked yet.
                if head[:5] == b"\x7fELF\x02" and head[16:20] in (b"\2\0>\0", b"\3\0>\0"):
                    yield path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", default=list(_FOLDERS))
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    paths = list(elf_files(options.folders))
    began = time.perf_counter()
    with ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(measure, paths, chunksize=4))
    elapsed = time.perf_counter() - began
    if options.json:
        with open(options.json, "w") as file:
            json.dump([asdict(result) for result in results], file, indent=0)
    done = [result for result in results if not result.error]
    seconds = sum(result.seconds for result in done)
    text = sum(result.text for result in done) / 1e6
    print(f"files        {len(done)}, {len(results) - len(done)} not readable")
    print(f"bytes        {sum(r.size for r in done) / 1e6:.0f} MB, {text:.0f} MB of code")
    print(f"elapsed      {elapsed:.1f} s with {options.jobs} processes")
    print(f"rate         {text / max(seconds, 1e-9):.1f} MB of code a second and process")
    print(f"summaries    {sum(r.packed for r in done) / 1e6:.1f} MB")
    print(f"not all told {sum(r.sites > 0 for r in done)} files, "
          f"{sum(r.always_unknown for r in done)} of them whatever is called")  # fmt: skip
    for result in sorted(done, key=lambda r: -r.seconds)[:8]:
        print(f"  {result.seconds:7.2f} s  {result.text / 1e6:7.1f} MB  {result.path}")


if __name__ == "__main__":
    main()
