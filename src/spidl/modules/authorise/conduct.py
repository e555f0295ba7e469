"""What each object of a link does: what it imports from whom, which code it brings to run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from spidl.api import (
    SHN,
    STB,
    STT,
    Dso,
    ElfFile,
    Link,
    LookupClass,
    R,
    name_hash,
)

_CRTI = re.compile(
    rb"(?:\xf3\x0f\x1e\xfa)?\x48\x83\xec\x08\x48\x8b\x05....\x48\x85\xc0\x74\x02\xff\xd0"
    rb"\x48\x83\xc4\x08\xc3",
    re.DOTALL,
)
"""_init of crti.o: calls __gmon_start__ if there is one."""
_JUMPS = re.compile(rb"(?:\xf3\x0f\x1e\xfa)?(?:\xe9(....)|\xeb(.))", re.DOTALL)
"""frame_dummy of crtbegin.o: goes to register_tm_clones."""
_CLONES = re.compile(
    rb"(?:\x48\x8d\x3d....|\xbe....)(?:\x48\x8d\x35....)?"
    rb"\x48(?:\x29\xfe|\x81\xee....)\x48\x89\xf0\x48\xc1\xee\x3f\x48\xc1\xf8\x03\x48\x01\xc6"
    rb"\x48\xd1\xfe\x74.(?:\x48\x8b\x05....|\xb8....)\x48\x85\xc0\x74.(?:\xbf....)?\xff\xe0",
    re.DOTALL,
)
"""register_tm_clones: calls _ITM_registerTMCloneTable if there is one."""
_CALLED = ("_ITM_registerTMCloneTable", "__gmon_start__")


@dataclass(slots=True)
class Conduct:
    """One object's."""

    name: str
    path: str
    names: tuple[str, ...]
    paths: tuple[str, ...]
    build_id: str
    because: str
    imports: dict[str, set[str]] = field(default_factory=dict)
    """Symbols by the name of the object that they are bound to."""
    interposes: dict[str, set[str]] = field(default_factory=dict)
    """Symbols of others in whose stead its own are taken, by the name of the other."""
    resolvers: tuple[str, ...] = ()
    """IFUNC symbols, and a number of resolvers without a name."""
    constructors: int = 0
    """Functions that run when it is loaded, besides those of the compiler's own start files."""
    is_opened: bool = False


def conduct_of(file: ElfFile, name: str, path: str, names: Iterable[str], because: str) -> Conduct:
    """What can be said of a file alone."""
    known = tuple(dict.fromkeys([name, *sorted(names), os.path.basename(path)]))
    return Conduct(
        name, path,
        tuple(n for n in known if "/" not in n),
        tuple(dict.fromkeys([path, os.path.realpath(path), *(n for n in known if "/" in n)])),
        (file.build_id or b"").hex(), because,
        resolvers=tuple(_resolvers(file)), constructors=constructors(file),
    )  # fmt: skip


def conducts(link: Link) -> list[Conduct]:
    """What the objects of a link do whose symbols are bound, by number."""
    found = []
    for dso in link.objects:
        because = "the program" if dso.is_root else dso.because
        if dso.loader is not None and not dso.is_root:
            because = f"needed by {dso.loader.name}" if because == "DT_NEEDED" else because
        found.append(conduct_of(dso.file, dso.name, dso.path, dso.names, because))
    stands_for = _stand_ins(link)
    rivals = _Rivals(link)
    for bindings in link.bindings:
        asker = bindings.requests.dso
        rows = np.flatnonzero((bindings.provider >= 0) & (bindings.provider != asker.number))
        # One of the references to a symbol is enough; a copy is bound otherwise than the rest.
        of = bindings.requests.symbol[rows] * 4 + bindings.requests.lookup[rows]
        rows = rows[np.unique(of, return_index=True)[1]]
        for row in rows.tolist():
            name = bindings.requests.name(row)
            by = int(bindings.provider[row])
            by = stands_for.get((by, int(bindings.value[row])), by)
            if by == asker.number:
                continue
            provider = link.objects[by]
            found[asker.number].imports.setdefault(provider.name, set()).add(name)
            if bindings.requests.lookup[row] == LookupClass.COPY:
                continue  # it takes the place of what it copies, and is asked nothing
            for victim in rivals.of(asker, provider, int(bindings.requests.hash[row]), name):
                found[by].interposes.setdefault(victim, set()).add(name)
    return found


def _stand_ins(link: Link) -> dict[tuple[int, int], int]:
    """Who really defines what an object only lends its place to: copies of data (R_X86_64_COPY) and
    canonical PLT entries, by the lender's number and the address that it lends."""
    found: dict[tuple[int, int], int] = {}
    for bindings in link.bindings:
        asker = bindings.requests.dso
        copied = bindings.requests.lookup == LookupClass.COPY
        symbols = asker.file.symbols[bindings.requests.symbol]
        addressed = (symbols["st_shndx"] == SHN.UNDEF) & (symbols["st_value"] != 0)
        fine = (bindings.provider >= 0) & (bindings.provider != asker.number)
        for row in np.flatnonzero((copied | addressed) & fine).tolist():
            lent = asker.symbol_address(int(bindings.requests.symbol[row]))
            found[asker.number, lent] = int(bindings.provider[row])
    return found


class _Rivals:
    """Objects that define what another one's definition is taken for."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._closures: dict[int, frozenset[int]] = {}
        parts, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for dso in link.objects:
            table = link.exports(dso)
            if table is None:
                continue
            symbols = dso.file.symbols[table.symbol]
            defined = table.hash[symbols["st_shndx"] != SHN.UNDEF]
            unique = np.unique(defined)
            parts.append(unique)
            owners.append(np.full(len(unique), dso.number, np.int64))
        hashes, numbers = np.concatenate(parts), np.concatenate(owners)
        order = np.argsort(hashes, kind="stable")
        hashes, numbers = hashes[order], numbers[order]
        several = np.zeros(len(hashes), np.bool_)
        if len(hashes) > 1:
            same = hashes[1:] == hashes[:-1]
            several[1:] |= same
            several[:-1] |= same
        self._definers: dict[int, list[int]] = {}
        for value, number in zip(hashes[several].tolist(), numbers[several].tolist(), strict=True):
            self._definers.setdefault(value, []).append(number)

    def of(self, asker: Dso, provider: Dso, hashed: int, name: str) -> Iterator[str]:
        """The asker itself, or what it depends on, where that defines the symbol too.

        C++ lets every object bring its own copy of an inline function, of which one is taken: where
        all are weak, that is no interposition.
        """
        for number in self._definers.get(hashed, ()):
            if number == provider.number or number not in self._closure(asker):
                continue
            victim = self._link.objects[number]
            both = (provider, victim)
            if name.startswith("_Z") and all(self._is_weak(dso, name) for dso in both):
                continue
            yield victim.name

    def _is_weak(self, dso: Dso, name: str) -> bool:
        table = self._link.exports(dso)
        assert table is not None, "it defines the symbol"
        rows = [int(i) for i in table.symbol if dso.file.symbol_name(int(i)) == name]
        bindings = {int(dso.file.symbols[row]["st_info"]) >> 4 for row in rows}
        return not bindings & {int(STB.GLOBAL)}

    def _closure(self, dso: Dso) -> frozenset[int]:
        if dso.number not in self._closures:
            found, todo = {dso.number}, [dso]
            while todo:
                for other in todo.pop().dependencies:
                    if other.number not in found:
                        found.add(other.number)
                        todo.append(other)
            self._closures[dso.number] = frozenset(found)
        return self._closures[dso.number]


# -- code that runs when an object is loaded -----------------------------------------------------


def _resolvers(file: ElfFile) -> Iterator[str]:
    symbols = file.symbols
    own = (symbols["st_info"] & 15 == STT.GNU_IFUNC) & (symbols["st_shndx"] != SHN.UNDEF)
    names = dict.fromkeys(file.symbol_name(int(i)) for i in np.flatnonzero(own))
    yield from names
    nameless = sum(int((table["r_type"] == R.IRELATIVE).sum()) for table in _tables(file))
    if nameless:
        yield f"{nameless} without a name" if not names else f"{nameless} for its own use"


def _tables(file: ElfFile) -> Sequence[np.ndarray]:
    return (file.rela, file.jmprel)


def constructors(file: ElfFile) -> int:
    """How many functions run when a file is loaded: DT_INIT, DT_INIT_ARRAY, DT_PREINIT_ARRAY,
    without those of GCC's start files where their code is what GCC writes."""
    defined = np.flatnonzero(file.symbols["st_shndx"] != SHN.UNDEF)
    called = [name_hash(name.encode()) for name in _CALLED]
    calls_nothing = not np.isin(file.name_hashes[defined], called).any()
    count = 0
    if file.init:
        count += not (calls_nothing and _CRTI.match(_code(file, file.init)))
    for array in (file.init_array, file.preinit_array):
        for function in _functions(file, *array) if array else ():
            count += not (calls_nothing and _is_frame_dummy(file, function))
    return count


def _functions(file: ElfFile, start: int, size: int) -> Iterator[int]:
    """Virtual addresses in an array of functions: relocations', else what the file has there."""
    moved: dict[int, int] = {}
    inside = (file.rela["r_offset"] >= start) & (file.rela["r_offset"] < start + size)
    for row in file.rela[inside & np.isin(file.rela["r_type"], (R.RELATIVE, R.R64))]:
        offset = int(row["r_offset"])
        moved[offset] = int(row["r_addend"])
        if row["r_type"] == R.R64:
            moved[offset] += int(file.symbols[int(row["r_sym"])]["st_value"])
    words = file.read(start, size & -8).view("<u8").tolist()
    for at, word in enumerate(words):
        value = moved.get(start + 8 * at, word)
        if value not in (0, 2**64 - 1):
            yield value


def _code(file: ElfFile, vaddr: int, size: int = 96) -> bytes:
    load = next((load for load in file.loads
                 if load.vaddr <= vaddr < load.vaddr + load.filesz), None)  # fmt: skip
    if load is None:
        return b""
    return file.read(vaddr, min(size, load.vaddr + load.filesz - vaddr)).tobytes()


def _is_frame_dummy(file: ElfFile, vaddr: int) -> bool:
    jump = _JUMPS.match(_code(file, vaddr, 16))
    if jump is None:
        return False
    offset = int.from_bytes(jump[1] or jump[2], "little", signed=True)
    return bool(_CLONES.match(_code(file, vaddr + jump.end() + offset)))


def undefined(file: ElfFile) -> Iterator[int]:
    """Symbols that a file imports, as indices."""
    symbols = file.symbols
    wanted = (symbols["st_shndx"] == SHN.UNDEF) & (symbols["st_name"] != 0)
    yield from np.flatnonzero(wanted & (symbols["st_info"] & 15 != STT.SECTION)).tolist()
