"""How many entries .dynsym has: no dynamic entry says so."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spidl.elf.constants import DT
from spidl.elf.dynamic import Dynamic
from spidl.elf.reader import Reader
from spidl.elf.tables import SYM, WORD


def count_symbols(reader: Reader, dynamic: Dynamic, highest_used: Callable[[], int]) -> int:
    """The number of symbols in DT_SYMTAB, 0 without one.

    DT_GNU_HASH tells it by the end of its last chain, unless it is empty; then DT_HASH does.
    Without either, the highest index a relocation uses (``highest_used()``, -1 for none) must do.
    Raises LinkError ``parse/bad-hash`` where a hash table names symbols that are not in the file.
    """
    symtab, strtab = dynamic.get(DT.SYMTAB), dynamic.get(DT.STRTAB)
    if symtab is None:
        return 0
    entry = dynamic.get(DT.SYMENT)
    if entry is not None and entry != SYM.itemsize:
        raise reader.error("bad-dynamic", f"DT_SYMENT is {entry}, not 24", table="PT_DYNAMIC")
    gnu_hash, sysv_hash = dynamic.get(DT.GNU_HASH), dynamic.get(DT.HASH)
    room = reader.backed(symtab) // SYM.itemsize
    count = 0
    if gnu_hash is not None:
        count, exact = _count_gnu(reader, gnu_hash)
        _check(reader, count, room, "DT_GNU_HASH", gnu_hash)
        if exact:
            return count
    if sysv_hash is not None:
        count = int(reader.array(sysv_hash, WORD, 2, "DT_HASH")[1])
        _check(reader, count, room, "DT_HASH", sysv_hash)
        return count
    if strtab is not None and strtab > symtab:
        room = min(room, (strtab - symtab) // SYM.itemsize)
    return max(count, min(highest_used() + 1, room))


def _check(reader: Reader, count: int, room: int, table: str, vaddr: int) -> None:
    if count > room:
        raise reader.error(
            "bad-hash",
            f"the hash table has {count} symbols, the symbol table room for {room}",
            table=table,
            vaddr=vaddr,
        )


def _count_gnu(reader: Reader, vaddr: int) -> tuple[int, bool]:
    """The end of the last chain and True; for a table without symbols, its first index and False.

    The buckets' chains follow one another, so the highest bucket starts the last one; a set low
    bit ends a chain.
    """
    table = "DT_GNU_HASH"
    nbuckets, first, bloom, _ = reader.array(vaddr, WORD, 4, table).tolist()
    if nbuckets == 0:
        raise reader.error("bad-hash", "a hash table without buckets", table=table, vaddr=vaddr)
    buckets = vaddr + 16 + 8 * bloom
    last = int(reader.array(buckets, WORD, nbuckets, table).max())
    if last == 0:
        return first, False
    if last < first:
        raise reader.error(
            "bad-hash",
            f"a bucket names symbol {last}, but the table starts with {first}",
            table=table,
            vaddr=vaddr,
        )
    chain = buckets + 4 * nbuckets + 4 * (last - first)
    words = reader.array(chain, WORD, reader.backed(chain) // 4, table)
    step, at = 64, 0
    while at < len(words):
        ends = np.flatnonzero(words[at : at + step] & 1)
        if len(ends):
            return last + at + int(ends[0]) + 1, True
        at += step
        step *= 2
    raise reader.error("bad-hash", "the last chain has no end", table=table, vaddr=chain)
