"""Damaged copies of real ELF files: mutations that know where a linker looks.

    python -m tests.fuzz.mutants ROUNDS [SEED]

links that many of them in a loop; see `survive` for what is insisted on.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from spidl.diagnostics import LinkError
from spidl.elf import DT, ElfFile
from spidl.link.environment import Environment
from spidl.link.link import Link
from spidl.modules.gnu import Gnu
from spidl.modules.musl import Musl
from spidl.modules.preload import Preload
from spidl.modules.sysv import SystemV

SRC = Path(__file__).parent / "src"
LINKER = "/lib64/ld-linux-x86-64.so.2"
INTERESTING = [0, 1, 2, 3, 7, 8, 24, 63, 255, 4095, 4096, 4097, 0x7FFF, 0x8000, 0xFFFF, 1 << 20,
               (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 36, 1 << 40, (1 << 46) + 4096,
               (1 << 47) - 4096, (1 << 47) - 1, 1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 4096,
               (1 << 64) - 8, (1 << 64) - 1]  # fmt: skip
TAGS = [int(tag) for tag in DT]
RECORDS = {"phdr": 56, "symbol": 24, "relocation": 24}
SECONDS = 20
"""Of CPU time for one link; a whole link of the slowest seed takes a fiftieth of a second."""
ROOM = 1 << 32
"""Bytes of address space that a link may take on top of what the process has."""


@dataclass(frozen=True)
class Target:
    """A program in a folder of its own, and the files of that folder that are damaged."""

    folder: Path
    program: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Seed:
    """A file's bytes, and the offsets of what is worth damaging."""

    data: bytes
    dynamic: int
    tags: int
    phdrs: int
    tables: tuple[tuple[int, int, int], ...]
    """(file offset, bytes of a record, number of records)."""

    @classmethod
    def of(cls, path: Path) -> Seed:
        data = path.read_bytes()
        elf = ElfFile.parse(data, str(path))
        assert elf.dynamic_vaddr is not None

        def at(tag: DT) -> int:
            vaddr = elf.tag(tag)
            return 0 if vaddr is None else elf.file_offset(vaddr)

        count = len(elf.symbols)
        tables = [
            (at(DT.SYMTAB), 24, count), (at(DT.VERSYM), 2, count), (at(DT.RELA), 24, len(elf.rela)),
            (at(DT.JMPREL), 24, len(elf.jmprel)), (at(DT.VERDEF), 2, 30), (at(DT.VERNEED), 2, 30),
            (at(DT.GNU_HASH), 4, 8 + count), (at(DT.HASH), 4, 8 + count),
            (at(DT.STRTAB), 1, elf.tag(DT.STRSZ) or 0),
            (at(DT.RELR), 8, (elf.tag(DT.RELRSZ) or 0) // 8),
        ]  # fmt: skip
        return cls(
            data, elf.file_offset(elf.dynamic_vaddr), len(elf.dynamic) + 1, len(elf.phdrs),
            tuple(table for table in tables if table[0] and table[2]),
        )  # fmt: skip


def _word(pick: random.Random) -> int:
    kind = pick.randrange(4)
    if kind == 0:
        return pick.choice(INTERESTING)
    return pick.randrange(1 << (6, 15, 64)[kind - 1])


def mutate(seed: Seed, pick: random.Random) -> bytes:
    """One to four damages, drawn from ``pick``."""
    content = bytearray(seed.data)

    def put(at: int, width: int, value: int) -> None:
        if 0 <= at <= len(content) - width:
            content[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")

    for _ in range(pick.choice((1, 1, 2, 4))):
        kind = pick.choice(("bit", "byte", "header", "phdr", "tag", "value", "swap", "table",
                            "table", "table", "splice", "cut"))  # fmt: skip
        if kind == "bit":
            at = pick.randrange(len(content))
            content[at] ^= 1 << pick.randrange(8)
        elif kind == "byte":
            put(pick.randrange(len(content)), 1, _word(pick))
        elif kind == "header":
            put(2 * pick.randrange(32), pick.choice((1, 2, 4, 8)), _word(pick))
        elif kind == "phdr":
            put(64 + 56 * pick.randrange(seed.phdrs) + pick.choice((0, 4, 8, 16, 32, 40, 48)), 8,
                _word(pick))  # fmt: skip
        elif kind == "tag":
            put(seed.dynamic + 16 * pick.randrange(seed.tags), 8, pick.choice(TAGS))
        elif kind == "value":
            put(seed.dynamic + 16 * pick.randrange(seed.tags) + 8, 8, _word(pick))
        elif kind == "swap":
            one, other = (seed.dynamic + 16 * pick.randrange(seed.tags) for _ in range(2))
            at = pick.choice((0, 8))
            content[one + at : one + 16] = content[other + at : other + 16]
        elif kind == "table":
            start, size, count = pick.choice(seed.tables)
            # Of a long table the first records, which every link looks at, are as good as others.
            row = pick.randrange(min(count, pick.choice((8, 1 << 20))))
            within = 4 * pick.randrange(size // 4) if size > 4 else 0
            put(start + size * row + within, pick.choice((1, 2, 4, 8)), _word(pick))
        elif kind == "splice":
            size = pick.choice((8, 24, 64, 4096))
            source, at = pick.randrange(len(content)), pick.randrange(len(content))
            part = content[source : source + size]
            content[at : at + len(part)] = part
        elif len(content) > 1000:
            del content[pick.randrange(1, len(content)) :]
    return bytes(content)


def make_targets(folder: Path) -> list[Target]:
    """Compile the small programs, and copy the system's own."""
    bare = ("-O1", "-nostdlib", "-ffreestanding", "-fno-stack-protector", f"-I{SRC}")
    targets = []
    for name, library, main in (
        ("small", ("-Wl,--hash-style=both",), ("-no-pie", "-fno-pie")),
        ("packed", ("-Wl,-z,pack-relative-relocs", "-mtls-dialect=gnu2", "-Wl,--hash-style=gnu"),
         ("-pie", "-fPIE", "-Wl,-z,now")),
    ):  # fmt: skip
        place = folder / name
        place.mkdir()
        _compile(*bare, "-fPIC", "-shared", "-Wl,-h,libsmall.so", *library,
                 f"-Wl,--version-script={SRC}/small_lib.map", "-o", place / "libsmall.so",
                 SRC / "small_lib.c", LINKER)  # fmt: skip
        _compile(*bare, *main, "-Wl,-rpath,$ORIGIN", "-o", place / "program",
                 SRC / "small_main.c", place / "libsmall.so")  # fmt: skip
        targets.append(Target(place, "program", ("program", "libsmall.so")))
    (folder / "true").mkdir()
    shutil.copy("/usr/bin/true", folder / "true/true")
    targets.append(Target(folder / "true", "true", ("true",)))
    system = next((p for p in map(Path, ("/lib/x86_64-linux-gnu", "/lib64", "/usr/lib"))
                   if (p / "libz.so.1").exists()), None)  # fmt: skip
    if system is not None:
        place = folder / "zlib"
        place.mkdir()
        shutil.copy((system / "libz.so.1").resolve(), place / "libz.so.1")
        (place / "main.c").write_text(
            "const char *zlibVersion(void); int main(void) { return *zlibVersion() != 49; }"
        )
        _compile("-O1", "-Wl,-rpath,$ORIGIN", "-o", place / "program", place / "main.c",
                 place / "libz.so.1")  # fmt: skip
        targets.append(Target(place, "program", ("libz.so.1", "program")))
    return targets


def _compile(*arguments: str | Path) -> None:
    subprocess.run(["gcc", *arguments], check=True, capture_output=True)


@contextmanager
def limited() -> Iterator[None]:
    """Bounds on CPU time and address space: beyond them, TimeoutError and MemoryError."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"a link took more than {SECONDS} s")

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGVTALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, hard))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def link(program: Path) -> str:
    """All phases, nothing is started; gives the error's code, or ``linked``.

    Within `limited`; any exception but a LinkError passes.
    """
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        made = Link(str(program), [Preload(), SystemV(), Gnu(), Musl()], Environment({}, "/"))
        made.run()
        assert made.space.memory.blocks
        return "linked"
    except LinkError as error:
        # A module that lets another exception escape is at fault as much as a traceback is.
        if error.code == "module/failed" and error.__cause__ is not None:
            raise error.__cause__ from None
        return error.code


@dataclass
class Corpus:
    """Targets in a folder, with the seeds read once."""

    targets: Sequence[Target]
    seeds: dict[Path, Seed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for target in self.targets:
            for name in target.files:
                self.seeds[target.folder / name] = Seed.of(target.folder / name)

    def survive(self, pick: random.Random) -> str:
        """Damage a file of a target, link the target, put the file back; gives `link`'s answer."""
        target = pick.choice(self.targets)
        path = target.folder / pick.choice(target.files)
        mutant = mutate(self.seeds[path], pick)
        try:
            _replace(path, mutant)
            return link(target.folder / target.program)
        finally:
            _replace(path, self.seeds[path].data)


def _replace(path: Path, content: bytes) -> None:
    """A new file: the old one may still be mapped."""
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o755)


def _loop(rounds: int, first: int) -> int:
    """Mutants number ``first`` and on; prints each new fault's number, and how many met what."""
    counts: dict[str, int] = {}
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=base) as name:
        corpus = Corpus(make_targets(Path(name)))
        with limited():
            for number in range(first, first + rounds):
                try:
                    code = corpus.survive(random.Random(number))
                except Exception as error:
                    at = traceback.extract_tb(error.__traceback__)[-1]
                    code = f"FAULT {type(error).__name__} at {at.filename}:{at.lineno}"
                    if code not in counts:
                        print(f"{number}: {code}: {error}", flush=True)
                counts[code] = counts.get(code, 0) + 1
    for code, count in sorted(counts.items(), key=lambda item: -item[1]):
        print(f"{count:8} {code}")
    return any(code.startswith("FAULT") for code in counts)


if __name__ == "__main__":
    sys.exit(_loop(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
