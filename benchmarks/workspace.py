"""A temporary place to measure in: programs, images, a cache of its own; nothing is left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where programs are looked for: never in the virtual environment that measures."""
_DECIDING = ("SPIDL_", "LD_", "GLIBC_TUNABLES", "MALLOC_", "GCC_EXEC_PREFIX", "COMPILER_PATH")
"""Variables that would change what is measured."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program of the machine, and arguments with which it ends at once."""

    name: str
    arguments: tuple[str, ...]
    package: str
    """The Debian package to install when it is missing."""


PROGRAMS = (
    Program("true", (), "coreutils"),
    Program("ls", ("/",), "coreutils"),
    Program("bash", ("-c", ":"), "bash"),
    Program("git", ("--version",), "git"),
    Program("perl", ("-e", "1"), "perl-base"),
    Program("python3", ("-S", "-c", "0"), "python3"),
    Program("sqlite3", ("-version",), "sqlite3"),
    Program("clang", ("--version",), "clang"),
    Program("perf", ("--version",), "linux-perf"),
    Program("curl", ("--version",), "curl"),
    Program("gdb", ("--version",), "gdb"),
    Program("ffmpeg", ("-version",), "ffmpeg"),
)


@dataclass(slots=True)
class Workspace:
    """A folder for files, and the Spidl under test with a cache and a folder of programs here."""

    folder: Path
    quick: bool
    missing: list[str] = field(default_factory=list)

    def find(self, name: str, package: str) -> str | None:
        """The path of a program; None, and a note for the page, where there is none."""
        path = shutil.which(name, path=SYSTEM_PATH)
        if path is None and name not in self.missing:
            self.missing.append(name)
            print(f"numbers: no {name} here (package {package}); left out", file=sys.stderr)
        return path

    def programs(self, names: Iterable[str] = ()) -> Iterator[tuple[Program, str]]:
        """The programs that this machine has, with their paths; all of them, or those named."""
        wanted = set(names)
        for program in PROGRAMS:
            if not wanted or program.name in wanted:
                path = self.find(program.name, program.package)
                if path is not None:
                    yield program, path

    def new_folder(self, name: str) -> Path:
        """A new folder in this place; its name begins with the one given."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))

    def spidl(self, *arguments: str, **environment: str) -> str:
        """Run the installed command; its output.  Exits with its message where it fails."""
        done = subprocess.run(
            [spidl_command(), *arguments], env={**os.environ, **environment}, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"numbers: spidl {' '.join(arguments)} failed\n{done.stderr}")
        return done.stdout

    def image(self, program: str, layout: str = "shared", *options: str) -> str:
        """An image of its own for a program: ``spidl build``, with further options of it."""
        output = str(self.new_folder(layout) / Path(program).name)
        self.spidl("build", program, f"--layout={layout}", "-o", output, *options)
        return output

    def enable(self, *programs: str) -> Path:
        """Link the programs and enable them; the folder that has them under their names."""
        self.spidl("enable", *programs)
        return Path(json.loads(self.spidl("status", "--json"))["folder"])

    def compile(self, name: str, source: str, *flags: str) -> str:
        """A program from C, or a library with ``-shared``; its path."""
        folder = self.new_folder("c")
        (folder / f"{name}.c").write_text(source, encoding="ascii")
        output = str(folder / name)
        command = ["gcc", "-O2", "-o", output, str(folder / f"{name}.c"), *flags]
        subprocess.run(command, check=True)
        return output


def spidl_command() -> str:
    """The command that is installed beside the Python that measures, or the one in PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), "spidl")
    found = beside if os.access(beside, os.X_OK) else shutil.which("spidl")
    if found is None:
        sys.exit("numbers: there is no spidl command; make setup-test installs it")
    return found


@contextmanager
def workspace(*, quick: bool) -> Iterator[Workspace]:
    """A workspace; what steers linkers is taken out of the environment meanwhile."""
    kept = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="spidl-numbers-") as name:
        folder = Path(name)
        for variable in list(os.environ):
            if variable.startswith(_DECIDING):
                del os.environ[variable]
        os.environ.update(
            PATH=SYSTEM_PATH, LC_ALL="C", SPIDL_CACHE=str(folder / "cache"),
            SPIDL_BIN=str(folder / "bin"), XDG_CONFIG_HOME=str(folder / "config"),
        )  # fmt: skip
        try:
            yield Workspace(folder, quick)
        finally:
            os.environ.clear()
            os.environ.update(kept)
