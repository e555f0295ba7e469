"""What an object that becomes a domain defines for others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from spidl.domains.symbols import Export, Kind, Symbol
from spidl.elf import PF, SHN, STB, STT, STV, VERSYM_HIDDEN, VERSYM_VERSION, ElfFile

if TYPE_CHECKING:
    from spidl.domains.placed import Placed

_VISIBLE = (STV.DEFAULT, STV.PROTECTED)
_KINDS = {
    STT.FUNC: Kind.FUNCTION, STT.NOTYPE: Kind.FUNCTION, STT.OBJECT: Kind.DATA,
    STT.COMMON: Kind.DATA, STT.GNU_IFUNC: Kind.INDIRECT, STT.TLS: Kind.THREAD,
}  # fmt: skip


def read_exports(file: ElfFile, bias: int, owner: Placed) -> dict[str, Export]:
    """A file's definitions by name; ``bias`` makes run-time addresses of its symbols'.

    Absolute symbols are none: they are numbers, not code or data.  Raises `LinkError` ``parse/...``
    for names and versions that are damaged.
    """
    defaults: dict[str, tuple[Symbol, bool]] = {}
    versions: dict[str, dict[str, Symbol]] = {}
    versym = file.versym
    for index, symbol in _definitions(file, bias, owner):
        entry = 0 if versym is None else int(versym[index])
        if not entry & VERSYM_HIDDEN:
            defaults[symbol.name] = symbol, entry & VERSYM_VERSION < 2
        others = versions.setdefault(symbol.name, {})
        if symbol.version is not None:
            others[symbol.version] = symbol
    found = {}
    for name, others in versions.items():
        default, plain = defaults.get(name, (None, False))
        found[name] = Export(default, others.get, plain)
    return found


def _definitions(file: ElfFile, bias: int, owner: Placed) -> Iterator[tuple[int, Symbol]]:
    """Definitions with their indexes in the symbol table."""
    low, high = file.span
    text = [(load.vaddr, load.end) for load in file.loads if load.flags & PF.X]
    for index, row in enumerate(file.symbols.tolist()):
        _, info, other, section, value, size = row
        kind = _KINDS.get(info & 15)
        if section in (SHN.UNDEF, SHN.ABS) or kind is None:
            continue
        if info >> 4 == STB.LOCAL or other & 3 not in _VISIBLE:
            continue
        if kind is Kind.THREAD:
            address = value
            if file.tls is None or value > file.tls.memsz:
                continue
        elif low <= value < high:
            address = bias + value
        else:
            continue
        if info & 15 == STT.NOTYPE and not any(start <= value < end for start, end in text):
            kind = Kind.DATA
        name, version = file.symbol_name(index), file.symbol_version(index)
        yield index, Symbol(name, address, kind, size, owner, None, version)
