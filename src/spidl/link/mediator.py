"""Who answers a symbol request.

No module binds a symbol by itself: relocate passes hand batches of requests to `Mediator.bind`,
which joins them with the symbol tables of the objects in scope and asks the resolvers.  The rule of
acceptance is glibc's (elf/dl-lookup.c: check_match, do_lookup_x, _dl_lookup_symbol_x), as column
operations: all requests advance through their candidates together, so the cost follows the largest
number of definitions of one name and not the number of requests.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from spidl.diagnostics import LinkError, Place
from spidl.elf.constants import SHN, STB, STT, STV, R
from spidl.elf.hashes import name_hash
from spidl.elf.tables import SYM
from spidl.link.answers import check_answer, take_answer
from spidl.link.namespace import Namespace
from spidl.link.recipes import VERSIONING, Versioning
from spidl.link.symbols import (
    I64,
    U64,
    Bindings,
    Bool,
    Definition,
    Exports,
    LookupClass,
    Requests,
    narrowed,
    unbound,
    version_of,
)
from spidl.link.unique import Winner, contested

if TYPE_CHECKING:
    from spidl.link.dso import Dso
    from spidl.link.link import Link

_UNDEF, _ABS, _TLS, _LOCAL = int(SHN.UNDEF), int(SHN.ABS), int(STT.TLS), int(STB.LOCAL)
_HIDDEN, _INTERNAL, _PROTECTED = int(STV.HIDDEN), int(STV.INTERNAL), int(STV.PROTECTED)
"""As plain numbers: looking a member of an enumeration up takes longer than comparing columns."""


class ScopeIndex:
    """The symbol tables of some objects, joined in scope order, and found by name hash.

    An *entry* is a row of the joined table.
    """

    def __init__(self, members: list[Dso], tables: list[Exports]) -> None:
        sizes = np.array([len(t.hash) for t in tables], np.int64)

        def column(name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
            if not tables:
                return np.zeros(0, dtype)
            return np.concatenate([getattr(t, name) for t in tables]).astype(dtype, copy=False)

        hashes = column("hash", np.uint64)
        self._order = np.argsort(hashes, kind="stable")
        """Entries by name hash, those of one hash in scope order."""
        self._sorted: U64 = hashes[self._order]
        self.member = np.repeat(np.array([m.number for m in members], np.int64), sizes)
        self.versioned = np.repeat(np.array([t.has_versions for t in tables], np.bool_), sizes)
        self.symbol: I64 = column("symbol", np.int64)
        self.version: U64 = column("version", np.uint64)
        self.hidden: Bool = column("hidden", np.bool_)
        self.default: Bool = column("default", np.bool_)
        self.for_plt: Bool = column("for_plt", np.bool_)
        parts = [m.file.symbols[t.symbol] for m, t in zip(members, tables, strict=True)]
        self._symbols = np.concatenate(parts) if parts else np.zeros(0, SYM)
        self._bias = np.zeros(max((m.number for m in members), default=0) + 1, np.uint64)
        for dso in members:
            self._bias[dso.number] = dso.bias

    def give(self, bindings: Bindings, rows: I64, entry: I64) -> None:
        """Record that ``rows`` are bound to these entries."""
        provider = self.member[entry]
        symbols = self._symbols[entry]
        value = symbols["st_value"].astype(np.uint64)
        bindings.provider[rows] = provider
        bindings.symbol[rows] = self.symbol[entry]
        bindings.value[rows] = np.where(_moves(symbols), value + self._bias[provider], value)
        bindings.size[rows] = symbols["st_size"]
        bindings.type[rows] = symbols["st_info"] & 15
        bindings.defined[rows] = symbols["st_shndx"] != _UNDEF

    def first(self, requests: Requests, rows: I64, lookup: npt.NDArray[np.uint8], root: int) -> I64:
        """The first acceptable entry for each of ``rows`` of ``requests``; -1 for none.

        ``root`` is the number of the program, which COPY look-ups skip.
        """
        wanted = requests.hash[rows]
        answer = np.full(len(rows), -1, np.int64)
        last = len(self._sorted) - 1
        if last < 0:
            return answer
        at = np.searchsorted(self._sorted, wanted).astype(np.int64)
        active = np.flatnonzero(self._sorted[np.minimum(at, last)] == wanted)
        while len(active):
            entry = self._order[at[active]]
            accepted = self._accepts(requests, rows[active], lookup[active], entry, root)
            answer[active[accepted]] = entry[accepted]
            active = active[~accepted]
            at[active] += 1
            active = active[at[active] <= last]
            active = active[self._sorted[at[active]] == wanted[active]]
        return answer

    def _accepts(
        self,
        requests: Requests,
        rows: I64,
        lookup: npt.NDArray[np.uint8],
        entry: I64,
        root: int,
    ) -> Bool:
        version = requests.version[rows]
        own = self.version[entry]
        exact = own == version
        base = ~(requests.version_hidden[rows] | (own != 0) | self.hidden[entry])
        by_version = np.where(version != 0, exact | base, self.default[entry])
        fits = by_version | ~self.versioned[entry]
        fits &= self.for_plt[entry] | (lookup != LookupClass.PLT)
        fits &= (lookup != LookupClass.COPY) | (self.member[entry] != root)
        return np.asarray(fits, np.bool_)


class Mediator:
    """Binds the requests of one link's objects."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._tables: dict[int, Exports] = {}
        self._scopes: dict[int, ScopeIndex] = {}
        self._own: dict[int, ScopeIndex] = {}
        self._unique: dict[int, dict[int, Winner]] = {}

    def table(self, dso: Dso) -> Exports | None:
        """An object's exported symbols; None if no module understands them."""
        if dso.number not in self._tables:
            exporter = self._link.pipelines[dso.number].exporter
            if exporter is None:
                return None
            self._tables[dso.number] = exporter[1](dso, self._link)
        return self._tables[dso.number]

    def symbols_named(self, dso: Dso, name: str) -> list[int]:
        """Indices of the symbols that an object exports under a name, in all versions."""
        table = self.table(dso)
        if table is None:
            return []
        same = table.hash == name_hash(name.encode(errors="surrogateescape"))
        return [int(i) for i in table.symbol[same] if dso.file.symbol_name(int(i)) == name]

    def definition(self, dso: Dso, name: str, version: str | None) -> Definition:
        """See `Link.definition`."""
        table = self.table(dso)
        found = self.symbols_named(dso, name)
        for index in found:
            assert table is not None, "a symbol was found in it"
            if version is None:
                fits = bool(table.default[table.symbol == index][0])
            else:
                fits = version_of(dso, index) == version
            if fits:
                symbol = dso.file.symbols[index]
                kind = int(symbol["st_info"]) & 15
                value = int(symbol["st_value"])
                address = value if kind == STT.TLS else dso.symbol_address(index)
                return Definition(dso, name, address, kind, int(symbol["st_size"]))
        raise LinkError(
            "relocate/no-definition",
            f"{dso.name} does not define `{name if version is None else f'{name}@{version}'}`, "
            "which a module wants to bind to",
            place=Place(dso.path),
            notes=tuple(f"there is a version {version_of(dso, index)}" for index in found),
            help="check the module's settings against `nm -D` of the library",
        )

    def scope(self, namespace: Namespace) -> ScopeIndex:
        """The index of a namespace's members, made once."""
        key = id(namespace)
        if key not in self._scopes:
            self._scopes[key] = self._index(namespace.members, namespace)
        return self._scopes[key]

    def visible(self, dso: Dso, namespace: Namespace) -> Exports | None:
        """What a namespace sees of a member's table; None if no module understands it."""
        table, patterns = self.table(dso), namespace.seen.get(dso.number)
        return table if table is None or patterns is None else narrowed(table, dso, patterns)

    def _index(self, members: list[Dso], namespace: Namespace) -> ScopeIndex:
        pairs = [(m, t) for m in members if (t := self.visible(m, namespace)) is not None]
        return ScopeIndex([m for m, _ in pairs], [t for _, t in pairs])

    def bind(self, requests: Requests) -> Bindings:
        """Answer a batch: local and protected references, the scope, then resolvers."""
        dso = requests.dso
        bindings = unbound(requests)
        symbols = dso.file.symbols[requests.symbol]
        binding = symbols["st_info"] >> 4
        visibility = symbols["st_other"] & 3
        local = (binding == _LOCAL) | (visibility == _HIDDEN) | (visibility == _INTERNAL)
        self._take(bindings, np.flatnonzero(local), dso.number, requests.symbol[local])
        open_rows = np.flatnonzero(~local)
        if dso.file.symbolic and len(open_rows):
            if dso.number not in self._own:
                self._own[dso.number] = self._index([dso], dso.namespace)
            open_rows = self._search(bindings, self._own[dso.number], open_rows)
        scope = self.scope(dso.namespace)
        self._search(bindings, scope, open_rows)
        if len(self._link.namespaces) > 1:
            self._ask_hosts(bindings, open_rows)
        self._unify(bindings, dso.namespace)
        protected = np.flatnonzero(~local & (visibility == _PROTECTED))
        if len(protected):
            self._bind_protected(bindings, scope, protected)
        own = local | (bindings.provider == dso.number) & (visibility == _PROTECTED)
        self._ask_resolvers(bindings, np.flatnonzero(~own))
        return bindings

    def _search(self, bindings: Bindings, index: ScopeIndex, rows: I64) -> I64:
        """Bind rows from an index; gives the rows that stay open."""
        requests = bindings.requests
        entry = index.first(requests, rows, requests.lookup[rows], self._link.root.number)
        found = entry >= 0
        index.give(bindings, rows[found], entry[found])
        return rows[~found]

    def _ask_hosts(self, bindings: Bindings, rows: I64) -> None:
        """What a guest defines is taken as its own namespace sees it: there the program may have
        another malloc, or its own copy of `environ`."""
        objects, own = self._link.objects, bindings.requests.dso.namespace
        guests = {n for n in set(bindings.provider[rows].tolist()) - {-1}
                  if objects[n].namespace is not own}  # fmt: skip
        if own is self._link.main and guests:
            # ld.so is shown a stand-in for these.
            bindings.modules.append("another namespace")
            bindings.owner[rows[np.isin(bindings.provider[rows], list(guests))]] = 0
        for namespace in {id(objects[n].namespace): objects[n].namespace for n in guests}.values():
            inside = [n for n in guests if objects[n].namespace is namespace]
            self._search(
                bindings, self.scope(namespace), rows[np.isin(bindings.provider[rows], inside)]
            )
        if own is not self._link.main:
            for (number, symbol), at_home in self._copied.items():
                same = (bindings.provider[rows] == number) & (bindings.symbol[rows] == symbol)
                if self._link.root.file.symbols["st_shndx"][at_home] == SHN.UNDEF:
                    same &= bindings.requests.lookup[rows] != LookupClass.PLT
                self._take(bindings, rows[same], 0, np.full(int(same.sum()), at_home, np.int64))

    @cached_property
    def _copied(self) -> dict[tuple[int, int], int]:
        """(object, symbol) of other namespaces to the program's symbol: its copy of data, or the
        PLT entry that is everybody's address of a function (psABI, Function Addresses)."""
        root, found = self._link.root, {}
        rela, own = root.file.rela, root.file.symbols
        copied = rela["r_sym"][rela["r_type"] == R.COPY].astype(np.int64)
        lent = np.flatnonzero((own["st_shndx"] == SHN.UNDEF) & (own["st_value"] != 0))
        symbols = np.union1d(copied, lent)
        rows = np.arange(len(symbols))
        versions, hidden = self._link.facts.get(VERSIONING, Versioning()).columns(root, symbols)
        requests = Requests(root, symbols, root.file.name_hashes[symbols], versions, hidden,
                            np.full(len(rows), LookupClass.COPY, np.uint8),
                            np.zeros(len(rows), np.bool_))  # fmt: skip
        scope = self.scope(root.namespace)
        for row, entry in enumerate(scope.first(requests, rows, requests.lookup, root.number)):
            if entry >= 0 and self._link.objects[scope.member[entry]] in self._link.apart:
                key = int(scope.member[entry]), int(scope.symbol[entry])
                found[key] = int(symbols[row])
        return found

    def _unify(self, bindings: Bindings, namespace: Namespace) -> None:
        """Give everybody the same definition of a unique symbol."""
        if id(namespace) not in self._unique:
            self._unique[id(namespace)] = contested(namespace.members, self.table, self._look_up)
        for name, (number, symbol) in self._unique[id(namespace)].items():
            rows = np.flatnonzero(
                (bindings.requests.hash == np.uint64(name)) & (bindings.provider >= 0)
            )
            self._take(bindings, rows, number, np.full(len(rows), symbol, np.int64))

    def _look_up(self, dso: Dso, symbol: int) -> Winner | None:
        """One symbol of an object, by its scope's rules."""
        symbols = np.array([symbol], np.int64)
        versions, hidden = self._link.facts.get(VERSIONING, Versioning()).columns(dso, symbols)
        one = Requests(dso, symbols, dso.file.name_hashes[symbols], versions, hidden,
                       np.zeros(1, np.uint8), np.zeros(1, np.bool_))  # fmt: skip
        scopes = [self.scope(dso.namespace)]
        if dso.file.symbolic:
            scopes.insert(0, self._index([dso], dso.namespace))
        for scope in scopes:
            entry = int(scope.first(one, np.zeros(1, np.int64), one.lookup, -1)[0])
            if entry >= 0:
                return int(scope.member[entry]), int(scope.symbol[entry])
        return None

    def _bind_protected(self, bindings: Bindings, scope: ScopeIndex, rows: I64) -> None:
        """A protected symbol binds to its own object, unless the program holds a canonical copy.

        glibc: _dl_lookup_symbol_x looks a second time as for a PLT; if that is another object,
        the reference's own definition is taken.
        """
        requests = bindings.requests
        own = requests.dso.number
        as_plt = np.full(len(rows), LookupClass.PLT, np.uint8)
        entry = scope.first(requests, rows, as_plt, self._link.root.number)
        elsewhere = (entry >= 0) & (scope.member[entry] != own)
        elsewhere |= requests.lookup[rows] == LookupClass.PLT
        self._take(bindings, rows[elsewhere], own, requests.symbol[rows[elsewhere]])

    def _take(self, bindings: Bindings, rows: I64, number: int, symbols: I64) -> None:
        """Record that ``rows`` are bound to ``symbols`` of the object with this number."""
        dso = self._link.objects[number]
        chosen = dso.file.symbols[symbols]
        value = chosen["st_value"].astype(np.uint64)
        kind = chosen["st_info"] & 15
        bindings.provider[rows] = number
        bindings.symbol[rows] = symbols
        bindings.value[rows] = np.where(_moves(chosen), value + np.uint64(dso.bias), value)
        bindings.size[rows] = chosen["st_size"]
        bindings.type[rows] = kind
        bindings.defined[rows] = chosen["st_shndx"] != _UNDEF

    @cached_property
    def _resolving(self) -> bool:
        """Whether any object has a resolver: they are registered before the first look-up."""
        return any(pipeline.resolvers for pipeline in self._link.pipelines)

    def _ask_resolvers(self, bindings: Bindings, rows: I64) -> None:
        """Let the resolvers of objects in scope answer, each where its object stands in scope.

        Nobody is asked for what cannot leave its object: local, hidden and protected symbols.
        """
        if not self._resolving:
            return
        requests = bindings.requests
        members = requests.dso.namespace.members
        position = {m.number: i for i, m in enumerate(members)}
        asked = [
            (i, member, module, resolve)
            for i, member in enumerate(members)
            for module, resolve in self._link.pipelines[member.number].resolvers
        ]
        if not asked:
            return
        for row in rows.tolist():
            request = requests.request(row)
            bound_at = position.get(int(bindings.provider[row]), len(members))
            for i, member, module, resolve in asked:
                if i > bound_at:
                    break
                try:
                    answer = self._link.guard(
                        module, "relocate", member, resolve, request, member, self._link
                    )
                except LinkError as error:
                    raise error.with_note(
                        f"module `{module}` was asked for `{request.name}` of {request.dso.name}"
                    ) from error.__cause__
                if answer is not None:
                    check_answer(answer, request, module)
                    take_answer(bindings, row, answer, module)
                    break


def _moves(symbols: npt.NDArray[np.void]) -> Bool:
    """Which symbols' values are addresses in their object: absolute ones and TLS offsets stay."""
    moves: Bool = (symbols["st_shndx"] != _ABS) & (symbols["st_info"] & 15 != _TLS)
    return moves
