"""struct link_map in an adopted process: where its fields are, found by looking.

The fields behind the public ones (<link.h>) move between builds of glibc.  Each is told from the
others by what it must hold: addresses that are known from the files and from the other maps.
Names are those of glibc's include/link.h.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from spidl.diagnostics import Refusal
from spidl.elf import DT, ElfFile
from spidl.link.memory import U64, Memory
from spidl.link.space import PAGE

ADDR, NAME, DYNAMIC, NEXT, PREVIOUS = 0, 8, 16, 24, 32
REAL, NAMESPACE, LIBNAME = 40, 48, 56
SIZE = 1408
"""Bytes of struct link_map to look at; it grew from 1120 to 1200 over glibc 2.31 to 2.41."""
_INFO = 64
_FIELDS = range(_INFO, SIZE, 8)
_PLAIN_TAGS = 35
"""DT_NUM of the oldest glibc: l_info has the entries of smaller tags at their number."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Offsets in bytes in struct link_map."""

    info: dict[int, int]
    """By dynamic tag: where the pointer to its entry is (l_info)."""
    searchlist: int
    """l_searchlist: the address of an array of maps, and their number."""
    loader: int
    """l_loader: the map that it was loaded for."""
    initfini: int
    """l_initfini: the address of an array of maps that ends in 0."""
    scope: int
    """l_scope: the address of an array of addresses of search lists."""
    buckets: int
    """l_nbuckets, l_gnu_bitmask_idxbits and l_gnu_shift, of four bytes each."""
    tables: int
    """l_gnu_bitmask, l_gnu_buckets, l_gnu_chain_zero."""
    start: int
    """l_map_start, and l_map_end behind it."""


class Words:
    """Words of an adopted process by address."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def get(self, address: int) -> int | None:
        """The word at an address; None where no private memory is."""
        at: U64 = np.array([address % 2**64], np.uint64)
        return int(self.memory.read_words(at)[0]) if self.memory.holds(at).all() else None

    def put(self, address: int, value: int) -> None:
        """Write a word."""
        at: U64 = np.array([address], np.uint64)
        self.memory.write_words(at, np.array([value % 2**64], np.uint64))

    def halves(self, address: int, count: int) -> list[int] | None:
        """``count`` numbers of four bytes; None where there are none."""
        at: U64 = np.uint64(address) + np.arange(0, 4 * count, 4, dtype=np.uint64)
        inside = self.memory.holds(at, 4).all()
        return [int(half) for half in self.memory.read_words(at, 4)] if inside else None

    def put_half(self, address: int, value: int) -> None:
        """Write a number of four bytes."""
        self.memory.write_words(np.array([address], np.uint64), np.array([value], np.uint64), 4)

    def array(self, address: int, count: int) -> list[int] | None:
        """``count`` words; None where there are none."""
        at: U64 = np.uint64(address) + np.arange(0, 8 * count, 8, dtype=np.uint64)
        inside = address < 2**63 and self.memory.holds(at).all()
        return [int(word) for word in self.memory.read_words(at)] if inside else None


def find_fields(
    words: Words, maps: Sequence[int], files: Sequence[ElfFile], others: Iterable[int]
) -> Fields:
    """The fields of these maps, the program's first, which ``files`` are of; there are ``others``.

    Raises `Refusal` ``adopt/unknown-map``.
    """
    every = {*maps, *others}
    if any(words.get(m + REAL) != m or words.get(m + NAMESPACE) != 0 for m in maps):
        raise _unknown("l_real")
    searchlist, members = _searchlist(words, maps[0], every)
    tables = _one("l_gnu_bitmask", _tables(words, maps, files))
    return Fields(
        _info(words, maps, files),
        searchlist,
        _one("l_loader", _loader(words, maps, every, searchlist)),
        _one("l_initfini", set(_initfini(words, maps[0], members)) - {searchlist}),
        _one("l_scope", _scope(words, maps, maps[0] + searchlist)),
        _one("l_nbuckets", _buckets(words, maps, files, tables)),
        tables,
        _one("l_map_start", _extent(words, maps, files)),
    )


def _info(words: Words, maps: Sequence[int], files: Sequence[ElfFile]) -> dict[int, int]:
    found: dict[int, int] = {}
    for at, file in zip(maps, files, strict=True):
        dynamic = words.get(at + DYNAMIC) or 0
        held = {words.get(at + field): field for field in _FIELDS}
        for index, tag in enumerate(file.dynamic["d_tag"].tolist()):
            field = held.get(dynamic + 16 * index)
            if field is not None:
                found[tag] = field
    if int(DT.SYMTAB) not in found:
        raise _unknown("l_info")
    # No known object may have an entry that another namespace's has: the gABI's are in their order.
    start = found[int(DT.SYMTAB)] - 8 * int(DT.SYMTAB)
    return {tag: start + 8 * tag for tag in range(_PLAIN_TAGS)} | found


def _searchlist(words: Words, main: int, every: set[int]) -> tuple[int, list[int]]:
    """The longest list of maps that begins with the program."""
    best: tuple[int, list[int]] = (0, [])
    for field in _FIELDS:
        pointer, count = words.get(main + field), (words.get(main + field + 8) or 0) % 2**32
        if pointer and len(best[1]) < count <= len(every):
            members = words.array(pointer, count)
            if members and members[0] == main and every.issuperset(members):
                best = field, members
    if not best[1]:
        raise _unknown("l_searchlist")
    return best


def _loader(words: Words, maps: Sequence[int], every: set[int], searchlist: int) -> Iterable[int]:
    """Behind l_searchlist and l_symbolic_searchlist; the program has none."""
    field = searchlist + 32
    loaders = [words.get(m + field) for m in maps]
    if loaders[0] == 0 and every.issuperset(filter(None, loaders)):
        yield field


def _initfini(words: Words, main: int, members: list[int]) -> Iterable[int]:
    for field in _FIELDS:
        array = words.array(words.get(main + field) or 0, len(members) + 1)
        if array and not array[-1] and set(array[:-1]) == set(members) and array[0] == main:
            yield field


def _scope(words: Words, maps: Sequence[int], globally: int) -> Iterable[int]:
    # With DT_SYMBOLIC an object's own list comes first.
    for field in _FIELDS:
        if all(globally in (words.array(words.get(m + field) or 0, 2) or ()) for m in maps):
            yield field


def _tables(words: Words, maps: Sequence[int], files: Sequence[ElfFile]) -> Iterable[int]:
    wanted = [(m, HashTable.of(f, words.get(m) or 0)) for m, f in zip(maps, files, strict=True)]
    for field in _FIELDS:
        if all(h is None or words.array(m + field, 3) == list(h.tables) for m, h in wanted):
            yield field


def _buckets(
    words: Words, maps: Sequence[int], files: Sequence[ElfFile], tables: int
) -> Iterable[int]:
    """Right before the tables, or with padding between."""
    wanted = [(m, HashTable.of(f, 0)) for m, f in zip(maps, files, strict=True)]
    for field in (tables - 12, tables - 16):
        if all(h is None or words.halves(m + field, 3) == list(h.numbers) for m, h in wanted):
            yield field


def _extent(words: Words, maps: Sequence[int], files: Sequence[ElfFile]) -> Iterable[int]:
    wanted = [(m, *(end + (words.get(m) or 0) for end in f.span))
              for m, f in zip(maps, files, strict=True)]  # fmt: skip
    for field in _FIELDS:
        found = [(words.array(m + field, 2), start, end) for m, start, end in wanted]
        if all(a and a[0] == start and end - PAGE < a[1] <= end for a, start, end in found):
            yield field


@dataclass(frozen=True, slots=True)
class HashTable:
    """What a link_map says of a file's hash table (_dl_setup_hash)."""

    numbers: tuple[int, int, int]
    """Buckets, index bits of the Bloom filter, its shift."""
    tables: tuple[int, int, int]
    """The addresses of filter, buckets and chains; without a filter, of chains and buckets."""

    @classmethod
    def of(cls, file: ElfFile, bias: int) -> HashTable | None:
        """None without a table."""
        table = file.tag(DT.GNU_HASH)
        if table is not None:
            buckets, first, filters, shift = file.read(table, 16).view("<u4").tolist()
            at = bias + table + 16 + 8 * filters
            return cls(
                (buckets, (filters - 1) % 2**32, shift),
                (bias + table + 16, at, (at + 4 * buckets - 4 * first) % 2**64),
            )
        table = file.tag(DT.HASH)
        if table is None:
            return None
        buckets = int(file.read(table, 4).view("<u4")[0])
        return cls((buckets, 0, 0), (0, bias + table + 8 + 4 * buckets, bias + table + 8))


def _one(name: str, found: Iterable[int]) -> int:
    fields = list(found)
    if len(fields) != 1:
        raise _unknown(name)
    return fields[0]


def _unknown(name: str) -> Refusal:
    return Refusal(
        "adopt/unknown-map",
        f"this build of ld.so keeps {name} where it was not found",
        help="objects of another namespace need it; please report the glibc's build-id",
    )


@dataclass(frozen=True, slots=True)
class Lists:
    """_dl_ns, ld.so's namespaces: struct link_namespaces, one after the other.

    Each begins with the first of its maps (_ns_loaded), their number (_ns_nloaded), and the address
    of the search list of its global scope (_ns_main_searchlist).
    """

    start: int
    stride: int
    count: int
    """The address of the number of those in use (_dl_nns)."""

    def at(self, number: int) -> int:
        """The address of a namespace, the program's being 0."""
        return self.start + self.stride * number


MOST_NAMESPACES = 16
"""DL_NNS, the program's among them."""
_FIRST, _LOADED, _GLOBAL = 0, 8, 16
_RECURSIVE = 1
"""PTHREAD_MUTEX_RECURSIVE_NP, the fifth number of a pthread_mutex_t."""


def find_lists(words: Words, start: int, main: int, loaded: int, searchlist: int) -> Lists:
    """Where the namespaces are, _rtld_global being at ``start``: the program's has ``loaded`` maps,
    from ``main`` on, and its ``searchlist``; all others are empty and the same.

    Raises `Refusal` ``adopt/unknown-map``.
    """
    head = words.array(start, 3)
    if head is None or [head[0], head[1] % 2**32, head[2]] != [main, loaded, searchlist]:
        raise _unknown("_ns_loaded")
    for stride in range(64, 512, 8):
        rest = words.array(start + stride, MOST_NAMESPACES * stride // 8 - stride // 8 + 1)
        if rest is None or rest[-1] != 1:
            continue
        unused = {tuple(rest[i : i + stride // 8]) for i in range(0, len(rest) - 1, stride // 8)}
        if len(unused) == 1 and not any(next(iter(unused))[:3]):
            return Lists(start, stride, start + MOST_NAMESPACES * stride)
    raise _unknown("_dl_ns")


def find_lock(words: Words, lists: Lists) -> int:
    """The address of _dl_load_lock, a free recursive mutex: it is behind _dl_nns.

    Raises `Refusal` ``adopt/unknown-map``.
    """
    at = lists.count + 8
    if words.halves(at, 5) != [0, 0, 0, 0, _RECURSIVE]:
        raise _unknown("_dl_load_lock")
    return at
