"""What the run-time linker is shown beyond what it finds by itself: objects that modules added.

It loads them as preloads.  Objects made in memory become files for as long as it looks.  A symbol
that only a module's resolver answers would keep it from starting the program at all, so one
generated object defines these names, and no others, as the addresses that they were answered with.
Likewise a generated object stands for each library that the program has from another namespace; the
library itself is shown with what belongs to its namespace hidden.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from spidl.diagnostics import Refusal
from spidl.elf import DT, PT, STB, STT, ElfFile
from spidl.elf.build import build_dso
from spidl.elf.tables import PHDR
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.memory import U8
from spidl.link.runtime import INTERPRETER, Runtime
from spidl.targets.exec.hidden import hidden_copy
from spidl.targets.exec.snapshot import Placement

_ANSWERS = "spidl-answers.so"
_PRELOADED = ("LD_PRELOAD", "/etc/ld.so.preload")
"""What the preload module adds, ld.so finds by itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Shell:
    """An object without a lasting file: where it is, and the content of the file it had.

    ``final`` is what the image shall have instead.  ``hides`` is the object of which it is a copy,
    ``stands_for`` the one whose symbols it defines.
    """

    placement: Placement
    content: U8
    final: U8
    hides: Dso | None = None
    stands_for: Dso | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The objects to preload, in order, and those of them that are shells."""

    paths: tuple[str, ...]
    shells: tuple[Shell, ...]
    program: Shell | None = None
    """A copy of the program that names another run-time linker, to be started instead."""

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

    def write(self, name: str, content: U8) -> str:
        """Write a file; gives its path."""
        if self._path is None:
            import tempfile

            self._path = tempfile.mkdtemp(prefix="spidl-")
        path = os.path.join(self._path, os.path.basename(name))
        with open(path, "wb") as file:
            content.tofile(file)
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
        if not dso.is_added or dso.because in _PRELOADED or dso is runtime.linker:
            continue
        if dso.namespace is not link.main:
            copy = hidden_copy(dso)
            shells.append(_shell(folder, f"{dso.number}-{dso.name}", dso.file, dso.bias, copy))
            shells[-1] = replace(shells[-1], hides=dso)
        elif dso.identity is None:
            shells.append(_shell(folder, dso.name, dso.file, dso.bias))
        else:
            paths.append(dso.path)
            continue
        paths.append(shells[-1].placement.path)
    for name, dso in _from_elsewhere(link):
        shells.append(_stand_in(link, folder, name, dso))
        paths.append(shells[-1].placement.path)
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
    program = None
    if INTERPRETER in link.facts:
        program = _with_linker(link.root, link.facts[INTERPRETER], folder)
        shells.append(program)
    return Shown(tuple(paths), tuple(shells), program)


def shows_more(link: Link, runtime: Runtime) -> bool:
    """Whether `show` may give anything: known when load is over."""
    added = (dso.is_added and dso.because not in _PRELOADED and dso is not runtime.linker
             for dso in link.objects)  # fmt: skip
    return any(added) or any(pipeline.resolvers for pipeline in link.pipelines)


def answered_alone(link: Link) -> dict[str, int]:
    """Names that no object in scope defines and what resolvers answered; weak ones may stay 0."""
    answers: dict[str, int] = {}
    for bindings in link.bindings:
        for row in np.flatnonzero(bindings.alone & ~bindings.requests.weak):
            answers.setdefault(bindings.requests.name(int(row)), int(bindings.value[row]))
    return answers


def _shell(
    folder: ShellFolder, name: str, file: ElfFile, bias: int, content: U8 | None = None
) -> Shell:
    content = file.data if content is None else content
    path = folder.write(name, content)
    stat = os.stat(path)
    start, end = file.span
    align = max(segment.align for segment in file.loads)
    placement = Placement(path, stat.st_dev, stat.st_ino, bias, bias + start, end - start,
                          align, content)  # fmt: skip
    return Shell(placement, content, content)


def _with_linker(root: Dso, linker: str, folder: ShellFolder) -> Shell:
    """A copy of the program whose PT_INTERP, which the kernel reads, is behind its end."""
    name = os.fsencode(linker) + b"\0"
    content = np.concatenate([root.file.data, np.frombuffer(name, np.uint8)])
    header = root.file.header
    table = content[header.phoff :][: header.phdrs.nbytes].view(PHDR)
    row = np.flatnonzero(table["p_type"] == PT.INTERP)[0]
    table["p_offset"][row], table["p_filesz"][row] = len(root.file.data), len(name)
    shell = _shell(folder, root.name, root.file, root.bias, content)
    os.chmod(shell.placement.path, 0o700)
    return replace(shell, hides=root)


def _from_elsewhere(link: Link) -> Iterator[tuple[str, Dso]]:
    """Names under which the program has an object of another namespace."""
    for name, dso in link.main.names.items():
        if dso.namespace is not link.main and "/" not in name:
            yield name, dso


def _stand_in(link: Link, folder: ShellFolder, name: str, dso: Dso) -> Shell:
    """An object of this soname with the symbols that the program sees of ``dso``."""
    absolute: dict[str, int] = {}
    indirect = set()
    table = link.visible(dso, link.main)
    assert table is not None, "whoever found it understands it"
    for symbol, hidden in zip(table.symbol.tolist(), table.hidden.tolist(), strict=True):
        version = dso.file.symbol_version(symbol)
        kind = int(dso.file.symbols[symbol]["st_info"]) & 15
        if kind == STT.TLS:
            continue
        mark = "" if version is None else f"@{version}" if hidden else f"@@{version}"
        key = dso.file.symbol_name(symbol) + mark
        absolute[key] = dso.symbol_address(symbol)
        if kind == STT.GNU_IFUNC:
            indirect.add(dso.file.symbol_name(symbol))
    file = ElfFile.parse(build_dso(name, absolute=absolute), name)
    start, end = file.span
    shell = _shell(folder, name, file, link.space.allocate(end - start) - start)
    return replace(shell, final=_with_resolvers(file, indirect), stands_for=dso)


def _with_resolvers(file: ElfFile, names: set[str]) -> U8:
    """The file with some of its symbols made indirect functions: whoever looks them up later calls
    their resolver, which ld.so must not do before the library is relocated."""
    if not names:
        return file.data
    content = np.array(file.data)
    table = file.tag(DT.SYMTAB)
    assert table is not None, "it was built with one"
    at = file.reader.file_offset(table)
    for index in range(len(file.symbols)):
        if file.symbol_name(index) in names:
            content[at + 24 * index + 4] = STB.GLOBAL << 4 | STT.GNU_IFUNC
    return content


def preload_variable(present: str | None, paths: Iterable[str]) -> str:
    """LD_PRELOAD with what is shown behind what the user set."""
    return ":".join([*([present] if present else []), *paths])
