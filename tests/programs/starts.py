"""Starts through the launcher, by a program that tells what it runs: which library, image or not.

The launcher is called as the shell calls it; ``relink="never"`` keeps Python out, so that a start
costs a millisecond and shows what the entry and the image make of it alone.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from spidl.cli.enabled import Enabled, Folder
from spidl.launch import LAUNCHER, command, python_words
from tests.needs import missing

from .attack import environment, library, program
from .harness import Outcome, run

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts and gives files away")
TELLS = r"""#include <stdio.h>
#include <string.h>
int value(void);
int main(void) {
  static char line[8192];
  int image = 0;
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && fgets(line, sizeof line, maps)) image |= strstr(line, "/images/") != NULL;
  printf("%d %s\n", value(), !maps ? "unknown" : image ? "image" : "plain");
  return 0;
}"""
"""Prints its library's number, and ``image`` where an image of a cache is mapped."""


def value(folder: Path, number: int, *flags: str | Path) -> Path:
    """libvalue.so; all of them have one size."""
    return library(folder / "libvalue.so", f"int value(void) {{ return {number}; }}", *flags)


def told(number: int, how: str) -> Outcome:
    """What a start shows that went well, and silently."""
    return Outcome(f"{number} {how}\n".encode(), b"", 0)


@dataclass
class Place:
    """A program that tells, its library, and a cache and a home of its own."""

    folder: Path
    rpath: str = "$ORIGIN"
    main: Path = field(init=False)
    cache: Path = field(init=False)
    launcher: Path = Path(LAUNCHER)
    python: Sequence[str] = field(default_factory=python_words)

    def __post_init__(self) -> None:
        self.main = program(self.folder / "place/program", TELLS, value(self.lib, 1),
                            f"-Wl,-rpath,{self.rpath}")  # fmt: skip
        self.cache = self.folder / "cache"
        (self.folder / "home").mkdir()

    @property
    def lib(self) -> Path:
        """The folder of the program and its library."""
        return self.folder / "place"

    def environment(self, **more: str) -> dict[str, str]:
        own = {"HOME": str(self.folder / "home"), "SPIDL_CACHE": str(self.cache)}
        env = {k: v for k, v in environment(**own).items() if not k.startswith("XDG_")}
        return {**env, **more}

    def start(
        self,
        env: Mapping[str, str] | None = None,
        *,
        options: Sequence[str] = (),
        cwd: Path | None = None,
    ) -> Outcome:
        """``spidl run [OPTIONS] PROGRAM`` with more variables, linked first if need be."""
        line = self.words("run", *options, str(self.main))
        return run(line, cwd=cwd, env=self.environment(**(env or {})))

    def never(
        self,
        env: Mapping[str, str] | None = None,
        *,
        options: Sequence[str] = (),
        cwd: Path | None = None,
    ) -> Outcome:
        """A start that makes no link: through the image that is there, or plainly."""
        return self.start({**(env or {}), "SPIDL_RELINK": "never"}, options=options, cwd=cwd)

    def words(self, *words: str) -> list[str]:
        """A command line of this launcher."""
        return [str(self.launcher), *(f"--python={word}" for word in self.python), *words]

    def images(self) -> list[Path]:
        """The image of each entry, by time."""
        found = [p for p in self.cache.glob("images/*/*") if p.name != "entry"]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def enable(self, folder: Path, name: str = "program") -> Path:
        """A name in a folder that starts the program through its image."""
        return enable(self.main, self.cache, folder, name)


def enable(main: Path, cache: Path, folder: Path, name: str) -> Path:
    """``spidl enable`` without its link."""
    Folder(str(folder)).write(Enabled(name, str(main), str(cache), None))
    return folder / name


def in_namespace(script: str, *words: str | Path, env: Mapping[str, str],
                 kinds: Sequence[str] = ("-m",)) -> Outcome:  # fmt: skip
    """A shell script in namespaces of its own; ``spidl`` is the launcher with its Python.

    Fails by name where the machine forbids that.
    """
    own = " ".join(f"'{word}'" for word in command())
    text = f'set -e\nspidl() {{ {own} "$@"; }}\n{script}'
    result = run(["unshare", *kinds, "sh", "-c", text, "sh", *map(str, words)], env=env)
    if result.stderr.startswith((b"unshare:", b"mount:")):
        missing(f"no namespaces or mounts here: {result.stderr.decode()}")
    return result


def tracees(main: Path) -> list[str]:
    """Processes that run this program or its image."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            maps = (folder / "maps").read_text()
        except (OSError, UnicodeDecodeError):
            continue
        if words[0] == os.fsencode(main) or f" {main}\n" in maps:
            found.append(folder.name)
    return found


def compiled_launcher(folder: Path) -> Path:
    """A copy of the launcher, as another installation has it."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", LAUNCHER, folder / "spidl"], check=True)
    return folder / "spidl"
