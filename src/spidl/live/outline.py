"""What a library's file says about having it in a process: small, and a function of the file."""

from __future__ import annotations

from dataclasses import dataclass

from spidl.elf import DF_1, DT
from spidl.link.actions import FileIdentity
from spidl.link.dso import Dso


@dataclass(frozen=True, slots=True)
class Outline:
    """Addresses are virtual; tables are (address, length in bytes), (0, 0) for none."""

    name: str
    path: str
    names: frozenset[str]
    """Every name that the link knew it by."""
    identity: FileIdentity | None
    """None for an object that a module made."""
    start: int
    """Of the span."""
    init: int | None
    fini: int | None
    init_array: tuple[int, int]
    fini_array: tuple[int, int]
    stays: bool
    """Whether it asks to stay in the process for good (DF_1_NODELETE; OpenSSL does)."""


def outline_of(dso: Dso) -> Outline:
    """The outline of an object that `spidl.live.segments.check_loadable` has passed."""
    file = dso.file

    def table(tag: DT, size: DT) -> tuple[int, int]:
        vaddr, length = file.tag(tag), file.tag(size)
        return (0, 0) if vaddr is None or not length else (vaddr, length & -8)

    return Outline(
        dso.name, dso.path, frozenset(dso.names), dso.identity, file.span[0], file.init, file.fini,
        table(DT.INIT_ARRAY, DT.INIT_ARRAYSZ), table(DT.FINI_ARRAY, DT.FINI_ARRAYSZ),
        bool(file.flags_1 & DF_1.NODELETE),
    )  # fmt: skip
