"""What the run-time linker is shown beyond what it finds by itself: objects that modules added.

It loads them as preloads.  Objects made in memory become files for as long as it looks.  A symbol
that only a module's resolver answers would keep it from starting the program at all, so one
generated object defines these names, and no others, as the addresses that they were answered with.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from spidl.diagnostics import Refusal
from spidl.elf import ElfFile
from spidl.elf.build import build_dso
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.memory import U8
from spidl.link.runtime import Runtime
from spidl.targets.exec.snapshot import Placement

_ANSWERS = "spidl-answers.so"
_PRELOADED = ("LD_PRELOAD", "/etc/ld.so.preload")
"""What the preload module adds, ld.so finds by itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Shell:
    """An object without a lasting file: where it is, and the content of the file it had."""

    placement: Placement
    content: U8


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The objects to preload, in order, and those of them that are shells."""

    paths: tuple[str, ...]
    shells: tuple[Shell, ...]

    def shell_at(self, address: int) -> Shell:
        """The shell that covers an address.  Refusal ``adopt/unknown-file``."""
        for shell in self.shells:
            if shell.placement.start <= address < shell.placement.end:
                return shell
        raise Refusal(
            "adopt/unknown-file",
            f"a file that is no object of the link is mapped at {address:#x} before the start",
            help="an IFUNC resolver maps it; the program is left to the system's linker",
        )


def place(dso: Dso) -> Placement:
    """Where an object from a file must be."""
    assert dso.identity is not None, "objects in memory are placed as shells"
    align = max(segment.align for segment in dso.file.loads)
    return Placement(dso.path, dso.identity.device, dso.identity.inode, dso.bias, dso.start,
                     dso.end - dso.start, align, dso.file.data)  # fmt: skip


class ShellFolder:
    """A folder for the files of shells; few links need it, so it is made for the first of them."""

    def __init__(self) -> None:
        self._path: str | None = None

    def write(self, name: str, content: bytes) -> str:
        """Write a file; gives its path."""
        if self._path is None:
            import tempfile

            self._path = tempfile.mkdtemp(prefix="spidl-")
        path = os.path.join(self._path, os.path.basename(name))
        with open(path, "wb") as file:
            file.write(content)
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._path is not None:
            import shutil

            shutil.rmtree(self._path, ignore_errors=True)


def show(link: Link, runtime: Runtime, folder: ShellFolder) -> Shown:
    """Write shells into ``folder`` and list what to preload."""
    paths: list[str] = []
    shells: list[Shell] = []
    for dso in link.objects:
        if dso.made_by is None or dso.because in _PRELOADED or dso is runtime.linker:
            continue
        if dso.identity is None:
            shells.append(_shell(folder, dso.name, dso.file, dso.bias))
            paths.append(shells[-1].placement.path)
        else:
            paths.append(dso.path)
    answers = answered_alone(link)
    if answers:
        file = ElfFile.parse(build_dso(_ANSWERS, absolute=answers), _ANSWERS)
        start, end = file.span
        bias = link.space.allocate(end - start) - start
        if runtime.moves_absolute:
            moved = {name: (value - bias) % 2**64 for name, value in answers.items()}
            file = ElfFile.parse(build_dso(_ANSWERS, absolute=moved), _ANSWERS)
        shells.append(_shell(folder, _ANSWERS, file, bias))
        paths.append(shells[-1].placement.path)
    return Shown(tuple(paths), tuple(shells))


def shows_more(link: Link, runtime: Runtime) -> bool:
    """Whether `show` may give anything: known when load is over."""
    added = (dso.made_by is not None and dso.because not in _PRELOADED and dso is not runtime.linker
             for dso in link.objects)  # fmt: skip
    return any(added) or any(pipeline.resolvers for pipeline in link.pipelines)


def answered_alone(link: Link) -> dict[str, int]:
    """Names that no object in scope defines and what resolvers answered; weak ones may stay 0."""
    answers: dict[str, int] = {}
    for bindings in link.bindings:
        for row in np.flatnonzero(bindings.alone & ~bindings.requests.weak):
            answers.setdefault(bindings.requests.name(int(row)), int(bindings.value[row]))
    return answers


def _shell(folder: ShellFolder, name: str, file: ElfFile, bias: int) -> Shell:
    path = folder.write(name, file.data.tobytes())
    stat = os.stat(path)
    start, end = file.span
    align = max(segment.align for segment in file.loads)
    placement = Placement(path, stat.st_dev, stat.st_ino, bias, bias + start, end - start,
                          align, file.data)  # fmt: skip
    return Shell(placement, file.data)


def preload_variable(present: str | None, paths: Iterable[str]) -> str:
    """LD_PRELOAD with what is shown behind what the user set."""
    return ":".join([*([present] if present else []), *paths])
