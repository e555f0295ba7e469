"""Relocate: walk an object's relocation tables, bind what they name, write what they compute.

One column operation a relocation type (psABI section 4.4); the types themselves are data in the
fact `RECIPES`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.api import (
    I64,
    LAZY,
    RECIPES,
    STB,
    STT,
    U64,
    VERSIONING,
    Batch,
    Bindings,
    Dso,
    ElfFile,
    Link,
    LinkError,
    LookupClass,
    Place,
    R,
    Recipe,
    Refusal,
    Requests,
    Versioning,
    name_hash,
    relocation_name,
    version_of,
)

_NONE, _COPY, _JUMP_SLOT = int(R.NONE), int(R.COPY), int(R.JUMP_SLOT)
_WEAK, _GNU_IFUNC = int(STB.WEAK), int(STT.GNU_IFUNC)

Table = npt.NDArray[np.void]
Group = tuple[int, str, I64, Table]
"""Relocations of one type in one table: type, the table's name, rows, the rows' entries."""


def relocate(dso: Dso, link: Link) -> None:
    """Apply DT_RELA and DT_JMPREL.

    Raises `LinkError` ``relocate/unknown-type``, ``relocate/undefined-symbol``.
    """
    if starts_itself(dso):
        return
    recipes = link.facts[RECIPES]
    groups = [
        group
        for name, table in (("DT_RELA", dso.file.rela), ("DT_JMPREL", dso.file.jmprel))
        for group in _by_type(dso, name, table, recipes)
    ]
    bindings, ranks = _bind(dso, link, groups, recipes)
    for number, name, index, entries in groups:
        if number in (_NONE, _COPY):
            continue
        recipe = recipes[number]
        row = ranks[recipe.lookup][entries["r_sym"]] if recipe.uses_symbol else index
        batch = Batch(
            link, dso, name, index,
            entries["r_offset"].astype(np.uint64) + np.uint64(dso.bias),
            entries["r_addend"].astype(np.int64).view(np.uint64),
            bindings, row,
        )  # fmt: skip
        _apply(batch, recipe, number)


def starts_itself(dso: Dso) -> bool:
    """A static program, PIE or not, relocates itself and sets up its own threads."""
    return dso.is_root and dso.file.interp is None and not dso.file.needed


def _by_type(dso: Dso, name: str, table: Table, recipes: dict[int, Recipe]) -> list[Group]:
    """A table's entries by their type; all types are known."""
    columns = dso.file.derived(types_of_rela if name == "DT_RELA" else types_of_jmprel)
    groups: list[Group] = []
    done = 0
    for number, first, count, together in zip(
        *(columns[key].tolist() for key in ("type", "first", "count", "together")), strict=True
    ):
        if number not in recipes and number not in (_NONE, _COPY):
            raise LinkError(
                "relocate/unknown-type",
                f"{dso.name} has a relocation of unknown type {number} ({relocation_name(number)})",
                place=Place(dso.path, name, first, int(table["r_offset"][first])),
                help="no module in the list brings a recipe for this type",
            )
        if together:
            groups.append((number, name, np.arange(first, first + count), table[first:][:count]))
        else:
            index = columns["row"][done : done + count]
            groups.append((number, name, index, table[index]))
            done += count
    return groups


def types_of_rela(file: ElfFile) -> dict[str, npt.NDArray[Any]]:
    """`types_of` DT_RELA."""
    return types_of(file.rela)


def types_of_jmprel(file: ElfFile) -> dict[str, npt.NDArray[Any]]:
    """`types_of` DT_JMPREL."""
    return types_of(file.jmprel)


def types_of(table: Table) -> dict[str, npt.NDArray[Any]]:
    """The types in a table, ascending: of each the first row, the count, and whether it is a run.

    Linkers put the entries of a type together, mostly; ``row`` are the rows of the other types.
    """
    ordered = np.argsort(table["r_type"], kind="stable").astype(np.int64)
    types = table["r_type"][ordered]
    starts = np.flatnonzero(np.concatenate([[True], types[1:] != types[:-1]])[: len(types)])
    counts = np.diff(np.append(starts, len(types)))
    together = ordered[starts + counts - 1] - ordered[starts] + 1 == counts
    return {
        "type": types[starts].astype(np.int64),
        "first": ordered[starts],
        "count": counts,
        "together": together,
        "row": ordered[~np.repeat(together, counts)],
    }


def _bind(
    dso: Dso, link: Link, groups: list[Group], recipes: dict[int, Recipe]
) -> tuple[Bindings, dict[LookupClass, I64]]:
    """Ask for each (symbol, look-up class) once; gives answers, and rows by class and symbol."""
    count = max(1, len(dso.file.symbols))
    used = {kind: np.zeros(count, np.bool_) for kind in LookupClass}
    for number, _, _, entries in groups:
        if number == _COPY:
            used[LookupClass.COPY][entries["r_sym"]] = True
        elif number != _NONE and recipes[number].uses_symbol:
            used[recipes[number].lookup][entries["r_sym"]] = True
    symbols, lookups, ranks, base = [], [], {}, 0
    for kind, wanted in used.items():
        index = np.flatnonzero(wanted).astype(np.int64)
        symbols.append(index)
        lookups.append(np.full(len(index), kind, np.uint8))
        rank = np.zeros(count, np.int64)
        rank[index] = np.arange(base, base + len(index))
        ranks[kind] = rank
        base += len(index)
    requests = make_requests(dso, link, np.concatenate(symbols), np.concatenate(lookups))
    return link.resolve(requests), ranks


def make_requests(dso: Dso, link: Link, symbols: I64, lookup: npt.NDArray[np.uint8]) -> Requests:
    """Requests for symbols of an object's own table, with the versions its references carry."""
    version, hidden = link.facts.get(VERSIONING, Versioning()).columns(dso, symbols)
    weak = (
        dso.file.symbols["st_info"][symbols] >> 4 == _WEAK
        if len(symbols) else np.zeros(0, np.bool_)
    )  # fmt: skip
    hashes = dso.file.name_hashes[symbols] if len(symbols) else np.zeros(0, np.uint64)
    return Requests(dso, symbols, hashes, version, hidden, lookup, weak)


def _apply(batch: Batch, recipe: Recipe, number: int) -> None:
    dso, link, bindings = batch.dso, batch.link, batch.bindings
    if recipe.uses_symbol:
        unbound = (batch.provider < 0) & (bindings.owner[batch.row] < 0)
        if number == _JUMP_SLOT and _may_wait(dso, link):
            batch = _left_lazy(batch, unbound)
        elif (unbound & ~bindings.requests.weak[batch.row]).any():
            undefined = unbound & ~bindings.requests.weak[batch.row]
            raise undefined_symbol(batch, int(np.flatnonzero(undefined)[0]), number)
    owner = bindings.owner[batch.row] if recipe.uses_symbol else None
    for words in recipe.apply(batch):
        deferred = words.deferred
        function = words.function
        reason = words.reason
        if deferred is None and recipe.calls_ifunc:
            deferred = (bindings.type[batch.row] == _GNU_IFUNC) & bindings.defined[batch.row]
            function, reason = batch.S, "IFUNC"
        if deferred is None or not deferred.any():
            link.space.write(
                words.addresses, words.values, link.by, width=recipe.width, table=batch.table,
                source=batch.index, owner=owner, owners=bindings.modules,
            )  # fmt: skip
            continue
        left = ~deferred
        link.space.write(
            words.addresses[left], words.values[left], link.by, width=recipe.width,
            table=batch.table, source=batch.index[left],
            owner=None if owner is None else owner[left], owners=bindings.modules,
        )  # fmt: skip
        none: U64 = np.zeros(len(words.addresses), np.uint64)
        functions = none if function is None else function
        link.space.defer(words.addresses[deferred], functions[deferred], link.by, reason)


def _may_wait(dso: Dso, link: Link) -> bool:
    """Whether an undefined PLT symbol of an object may wait until it is called."""
    now = dso.file.bind_now or bool(link.environment.variables.get("LD_BIND_NOW"))
    return link.facts.get(LAZY, True) and not now


def _left_lazy(batch: Batch, unbound: npt.NDArray[np.bool_]) -> Batch:
    """Leave slots to the run-time linker: a later dlopen may define the symbol, weak or not.

    Such a slot leads back into its own PLT entry: the file's word, moved by the bias.  It is
    owned, since with LD_BIND_NOW ld.so writes 0 there for a weak symbol.
    """
    if not unbound.any():
        return batch
    link, dso = batch.link, batch.dso
    places = batch.P[unbound]
    link.space.write(
        places,
        link.space.read_words(places, link.by) + batch.B,
        link.by,
        table=batch.table,
        source=batch.index[unbound],
        owner=np.zeros(len(places), np.int64),
        owners=[link.by.module],
    )
    keep = ~unbound
    return Batch(link, dso, batch.table, batch.index[keep], batch.P[keep], batch.A[keep],
                 batch.bindings, batch.row[keep])  # fmt: skip


def _definitions(name: str, link: Link) -> list[tuple[str, str]]:
    """(object, version) of every object that defines a name at all."""
    wanted = np.uint64(name_hash(name.encode(errors="surrogateescape")))
    return [
        (dso.name, version_of(dso, int(symbol)) or "none")
        for dso in link.objects
        if (table := link.exports(dso)) is not None
        for symbol in table.symbol[table.hash == wanted]
    ]


def undefined_symbol(batch: Batch, i: int, number: int) -> LinkError:
    """The error for row ``i``: which symbol, where it is asked for, where it was looked for."""
    link, dso, requests = batch.link, batch.dso, batch.bindings.requests
    request = requests.request(int(batch.row[i]))
    name = request.name if request.version is None else f"{request.name}@{request.version}"
    vaddr = int(batch.P[i]) - dso.bias
    others = _definitions(request.name, link)
    notes = [f"searched: {', '.join(m.name for m in dso.namespace.members)} "
             f"(namespace `{dso.namespace}`)"]  # fmt: skip
    notes += [f"{other} defines it, under the version {version}" for other, version in others]
    return LinkError(
        "relocate/undefined-symbol",
        f"undefined symbol `{name}`, {relocation_name(number)}",
        place=Place(dso.path, batch.table, int(batch.index[i]), vaddr),
        notes=tuple(notes),
        help="a library is older than the one this was built with: update it, or set "
        "LD_LIBRARY_PATH to the folder of the right one",
    )


def copy_objects(link: Link) -> None:
    """R_X86_64_COPY, once every source is relocated: the program's copy of a library's object."""
    for bindings in link.bindings:
        requests = bindings.requests
        rows = np.flatnonzero(requests.lookup == LookupClass.COPY)
        dso = requests.dso
        for row in rows:
            symbol = dso.file.symbols[int(requests.symbol[row])]
            places = dso.file.rela["r_offset"][
                (dso.file.rela["r_type"] == R.COPY)
                & (dso.file.rela["r_sym"] == requests.symbol[row])
            ]
            provider = int(bindings.provider[row])
            if provider < 0:
                if requests.weak[row]:
                    continue
                raise LinkError(
                    "relocate/undefined-symbol",
                    f"undefined symbol `{requests.name(int(row))}`, {relocation_name(R.COPY)}",
                    place=Place(dso.path, "DT_RELA"),
                    help="a library is older than the one this program was built with",
                )
            size, source_size = int(symbol["st_size"]), int(bindings.size[row])
            if size < source_size:
                raise Refusal(
                    "relocate/copy-size",
                    f"`{requests.name(int(row))}` takes {source_size} bytes in "
                    f"{link.objects[provider].name} and {size} in {dso.name}",
                    place=Place(dso.path, "DT_RELA"),
                    help="build the program again with the library that is installed",
                )
            for place in places:
                link.space.copy(
                    int(place) + dso.bias, int(bindings.value[row]), min(size, source_size), link.by
                )
