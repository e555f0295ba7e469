"""The relocation tables: DT_RELA, DT_JMPREL and DT_RELR."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spidl.elf.constants import DT
from spidl.elf.dynamic import Dynamic
from spidl.elf.reader import Reader
from spidl.elf.tables import RELA, XWORD, Table, frozen


def read_rela(reader: Reader, dynamic: Dynamic) -> tuple[Table, Table]:
    """(DT_RELA, DT_JMPREL), apart: entries of both are in the second only.

    Some linkers let DT_RELA's range span the PLT relocations too; ld.so relocates them once.
    """
    if dynamic.get(DT.REL) is not None or dynamic.get(DT.PLTREL) == DT.REL:
        raise reader.error(
            "rel-unsupported",
            "relocations without addends (DT_REL), which x86-64 does not have",
            table="PT_DYNAMIC",
        )
    entry = dynamic.get(DT.RELAENT)
    if entry is not None and entry != RELA.itemsize:
        raise reader.error("bad-dynamic", f"DT_RELAENT is {entry}, not 24", table="PT_DYNAMIC")
    if dynamic.get(DT.JMPREL) is not None and dynamic.get(DT.PLTREL) != DT.RELA:
        raise reader.error("bad-dynamic", "DT_PLTREL is not DT_RELA", table="PT_DYNAMIC")
    rela_at, rela_size = dynamic.range(DT.RELA, DT.RELASZ, RELA.itemsize)
    plt_at, plt_size = dynamic.range(DT.JMPREL, DT.PLTRELSZ, RELA.itemsize)
    rela = reader.read(rela_at, rela_size, "DT_RELA").view(RELA)
    jmprel = reader.read(plt_at, plt_size, "DT_JMPREL").view(RELA)
    before, after = plt_at - rela_at, plt_at + plt_size - rela_at
    if not plt_size or before >= rela_size or after <= 0:
        return rela, jmprel
    if before % RELA.itemsize or before < 0 or after > rela_size:
        raise reader.error(
            "bad-dynamic", "DT_JMPREL overlaps DT_RELA in part", table="DT_JMPREL", vaddr=plt_at
        )
    head, tail = rela[: before // RELA.itemsize], rela[after // RELA.itemsize :]
    return (frozen(np.concatenate([head, tail])) if len(tail) else head), jmprel


def check_symbols(reader: Reader, table: Table, name: str, count: int) -> Table:
    """The same table, where every entry names an existing symbol; else ``parse/bad-relocation``."""
    if len(table) and int(table["r_sym"].max()) >= max(count, 1):
        index = int(np.flatnonzero(table["r_sym"] >= max(count, 1))[0])
        raise reader.error(
            "bad-relocation",
            f"a relocation names symbol {table['r_sym'][index]}, the table has {count}",
            table=name,
            index=index,
        )
    return table


def read_relr(reader: Reader, dynamic: Dynamic) -> npt.NDArray[np.uint64]:
    """The virtual addresses of the words that DT_RELR relocates, in its order.

    An even entry is an address; an odd one is a bitmap of the 63 words behind the last one that an
    entry spoke about (gABI, "Relative relocation table").
    """
    entry = dynamic.get(DT.RELRENT)
    if entry is not None and entry != 8:
        raise reader.error("bad-dynamic", f"DT_RELRENT is {entry}, not 8", table="PT_DYNAMIC")
    vaddr, size = dynamic.range(DT.RELR, DT.RELRSZ, 8)
    entries: npt.NDArray[np.uint64] = reader.read(vaddr, size, "DT_RELR").view(XWORD)
    if not len(entries):
        return frozen(np.zeros(0, dtype=np.uint64))
    bitmap = (entries & np.uint64(1)).astype(bool)
    if bitmap[0]:
        raise reader.error("bad-relocation", "DT_RELR starts with a bitmap", table="DT_RELR")
    starts = np.flatnonzero(~bitmap)
    group = np.cumsum(~bitmap) - 1
    # The n-th bitmap behind an address speaks about the 63 words from address + 8 + n * 504.
    nth = np.arange(len(entries)) - starts[group] - 1
    base = entries[starts][group] + np.uint64(8) + (nth * 504).astype(np.uint64)
    rows = np.flatnonzero(bitmap)
    bits = np.unpackbits(
        np.ascontiguousarray(entries[rows]).view(np.uint8).reshape(-1, 8),
        axis=1,
        bitorder="little",
    )
    counts = np.ones(len(entries), dtype=np.int64)
    counts[rows] = bits[:, 1:].sum(axis=1)
    if int(counts.sum()) * 8 > len(reader.data):
        # A relocated word holds its addend, so each has its own eight bytes in the file.
        raise reader.error(
            "bad-relocation", "DT_RELR relocates more words than the file has", table="DT_RELR"
        )
    words = np.repeat(base, counts)
    words[np.cumsum(counts)[~bitmap] - 1] = entries[starts]
    _, bit = np.nonzero(bits[:, 1:])
    words[np.repeat(bitmap, counts)] += (bit * 8).astype(np.uint64)
    return frozen(words)
