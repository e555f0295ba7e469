"""An object's exported symbols, without versions (gABI, Symbol Table; glibc's check_match)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.api import DT, SHN, STB, STT, STV, Dso, ElfFile, Exports, Link

_BINDINGS = (STB.GLOBAL, STB.WEAK, STB.GNU_UNIQUE)
_TYPES = (STT.NOTYPE, STT.OBJECT, STT.FUNC, STT.COMMON, STT.TLS, STT.GNU_IFUNC)
_BINDABLE = np.array([info >> 4 in _BINDINGS and info & 15 in _TYPES for info in range(256)])
_VISIBLE = np.array([visibility not in (STV.HIDDEN, STV.INTERNAL) for visibility in range(4)])


def exports(dso: Dso, link: Link) -> Exports:
    """What can be bound to: global, visible, with a value, and in the hash table."""
    columns = dso.file.derived(bindable)
    n = len(columns["symbol"])
    return Exports(
        symbol=columns["symbol"],
        hash=columns["hash"],
        version=np.zeros(n, np.uint64),
        hidden=np.zeros(n, np.bool_),
        default=np.ones(n, np.bool_),
        for_plt=columns["for_plt"],
        has_versions=False,
    )


def bindable(file: ElfFile) -> dict[str, npt.NDArray[Any]]:
    """The columns of `Exports` that do not depend on versions."""
    symbols = file.symbols
    defined = symbols["st_shndx"] != SHN.UNDEF
    kind = symbols["st_info"] & 15
    valued = (
        (symbols["st_value"] != 0) | (defined & (symbols["st_shndx"] == SHN.ABS))
        | (kind == STT.TLS) & defined
    )  # fmt: skip
    chosen = valued & _VISIBLE[symbols["st_other"] & 3] & _BINDABLE[symbols["st_info"]]
    table = file.tag(DT.GNU_HASH)
    if table is not None:
        # Symbols before symoffset are in no bucket: look-up never meets them.
        first = int(file.read(table, 16).view(np.uint32)[1])
        chosen[:first] = False
    index = np.flatnonzero(chosen).astype(np.int64)
    return {"symbol": index, "hash": file.name_hashes[index], "for_plt": defined[index]}
