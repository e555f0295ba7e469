"""How long the analysis takes, and what it finds, over all ELF files of folders.

    python -m benchmarks.analyse                       # a plain Debian
    python -m benchmarks.analyse /usr /opt             # all files of folders
    python -m benchmarks.analyse --json FILE FOLDER...

A plain Debian is what dpkg says this machine has of the packages of priority required, important
and standard, the packages of the programs that `benchmarks.workspace` measures, and all that these
depend on: some 1,500 ELF files of 0.9 GB.  One line a file goes to the JSON; the table has the
sums.  Processor time counts where others use the machine too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

from benchmarks.workspace import PROGRAMS
from spidl.analyse import analyse
from spidl.diagnostics import LinkError
from spidl.elf import PF, ElfFile

_PRIORITIES = ("required", "important", "standard")
_DPKG = "/var/lib/dpkg/info"


@dataclass(frozen=True, slots=True)
class Result:
    """What one file cost (seconds, bytes) and gave."""

    path: str
    size: int
    text: int = 0
    seconds: float = 0.0
    """Processor time."""
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
    began = time.process_time()
    try:
        file = ElfFile.open(path)
        summary = analyse(file)
    except LinkError as error:
        return Result(path, size, error=error.code)
    seconds = time.process_time() - began
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
                except OSError:
                    continue
                if is_elf(path):
                    yield path


def is_elf(path: str) -> bool:
    """Whether a file is a 64-bit x86-64 program or shared object; others are not linked yet."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError:
        return False
    return head[:5] == b"\x7fELF\x02" and head[16:20] in (b"\2\0>\0", b"\3\0>\0")


def plain_packages() -> set[str]:
    """Names of the packages of a plain Debian, as far as they are installed."""
    fields = "${Package}\t${Priority}\t${Pre-Depends}, ${Depends}\t${Provides}\n"
    told = subprocess.run(["dpkg-query", "-W", "-f", fields], capture_output=True, text=True,
                          check=True).stdout  # fmt: skip
    needs: dict[str, list[list[str]]] = {}
    provided: dict[str, str] = {}
    todo = [program.package for program in PROGRAMS]
    for line in told.splitlines():
        name, priority, depends, provides = line.split("\t")
        needs[name] = [_names(group.split("|")) for group in depends.split(",") if group.strip()]
        provided |= dict.fromkeys(_names(provides.split(",")), name)
        todo += [name] if priority in _PRIORITIES else []
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in found or name not in needs:
            continue
        found.add(name)
        for group in needs[name]:
            todo += [provided.get(other, other) if other not in needs else other for other in group]
    return found


def _names(words: list[str]) -> list[str]:
    """Packages without versions and architectures."""
    return [re.split(r"[ (:]", word.strip())[0] for word in words]


def plain_files() -> list[str]:
    """The ELF files of a plain Debian."""
    listed: set[str] = set()
    for name in plain_packages():
        for path in (f"{_DPKG}/{name}.list", f"{_DPKG}/{name}:amd64.list"):
            if os.path.exists(path):
                with open(path) as lines:
                    listed |= {os.path.realpath(line.rstrip("\n")) for line in lines}
    return sorted(path for path in listed if is_elf(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    paths = list(elf_files(options.folders)) if options.folders else plain_files()
    paths.sort(key=os.path.getsize, reverse=True)
    began = time.perf_counter()
    with ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(measure, paths, chunksize=1))
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
    print(f"processor    {seconds:.1f} s")
    print(f"summaries    {sum(r.packed for r in done) / 1e6:.1f} MB")
    print(f"not all told {sum(r.sites > 0 for r in done)} files, "
          f"{sum(r.always_unknown for r in done)} of them whatever is called")  # fmt: skip
    for result in sorted(done, key=lambda r: -r.seconds)[:8]:
        print(f"  {result.seconds:7.2f} s  {result.text / 1e6:7.1f} MB  {result.path}")


if __name__ == "__main__":
    main()
