"""Capsules: libraries from another system's file tree, with all that they need, in one process.

A capsule is a namespace of the link.  The program sees what its libraries export and nothing else
of it; what they need comes from the capsule's root, but for one libc that serves everybody.  The
idea is libcapsule's; the means are the link's own, so that data, versions and thread-locals work.
"""

from __future__ import annotations

import fnmatch
import os
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import field, replace
from fnmatch import fnmatchcase

import numpy as np

from spidl.api import (
    COLLECT,
    INTERPRETER,
    POST_COLLECT,
    POST_LOAD,
    SHN,
    STT,
    TREES,
    Define,
    Dso,
    Link,
    LinkError,
    MemoryObject,
    Module,
    Namespace,
    Need,
    Pipeline,
    Place,
    build_dso,
    name_hash,
)
from spidl.modules.capsule.newer import libc_from
from spidl.modules.capsule.settings import (
    LINKER,
    SHARED,
    SHARED_IF_NEWER,
    Capsule,
    read_capsules,
)

_OPENERS = ("dlopen", "dlmopen")
_EVERYBODYS = frozenset({"_init", "_fini", "_end", "_edata", "__bss_start"})
"""What old linkers export from every library."""


class Capsules(Module):
    """Takes named libraries from other roots, each capsule in a namespace of its own."""

    name = "capsule"
    after = ("gnu",)
    policy = True  # the plain way would be another program

    capsules: dict[str, dict[str, str | bool | list[str]]] = field(default_factory=dict)
    take: list[str] = field(default_factory=list)
    """LIBRARY,...=ROOT, as `--capsule` gives it: capsules with no other settings."""

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.is_root:
            self._capsules = read_capsules(self.capsules, self.take)
            self._libc_from: Capsule | None = None
            pipeline.weak(COLLECT, self.choose_libc)
            pipeline.weak(POST_COLLECT, self.close)
            pipeline.weak(POST_LOAD, self.check_exports)
        if not self._capsules or pipeline.find is None:
            return
        earlier = pipeline.find[1]

        def find(name: str, dso: Dso, link: Link) -> Need | MemoryObject:
            """A capsule's library from its root; a capsule's need from there, or shared."""
            capsule = self._of(dso)
            if capsule is not None:
                return self._private(name, dso, capsule, link)
            for capsule in self._capsules:
                if name in capsule.libraries:
                    return self._exported(name, capsule, link)
            if self._libc_from is not None and name in SHARED:
                return self._in_root(name, None, self._libc_from, link)
            return earlier(name, dso, link)

        pipeline.finder(find)

    def choose_libc(self, dso: Dso, link: Link) -> list[Need]:
        """Collect, before anything else: a capsule's libc serves all where it must."""

        def in_root(name: str, capsule: Capsule) -> Need:
            return self._in_root(name, None, capsule, link)

        self._libc_from = chosen = libc_from(self._capsules, in_root, link)
        if chosen is not None:
            linker = in_root(LINKER, chosen)
            if linker.path is None:
                raise linker.missing(dso.path)
            link.facts[INTERPRETER] = linker.path
        return []

    def close(self, link: Link) -> None:
        """Post-collect: bring what nobody asked for by name, and put the scopes in order."""
        for capsule in self._capsules:
            namespace = self._namespace(capsule, link)
            for name in capsule.libraries:
                if link.known(name) is None:
                    found = link.add(self._exported(name, capsule, link), in_scope=False)
                    namespace.welcome(found)
        link.close()
        for library in [dso for dso in link.main.names.values() if dso.namespace is not link.main]:
            self._stand_in_for_threads(library, link)
        for capsule in self._capsules:
            namespace = self._namespace(capsule, link)
            first = [namespace.names[name] for name in capsule.libraries]
            namespace.members[:] = members = _breadth_first(first)
            if capsule.exports != ("*",):
                link.main.seen.update((library.number, capsule.exports) for library in first)
            own = [dso for dso in members if dso.namespace is namespace]
            opens = any(_imports(dso, _OPENERS) for dso in own)
            namespace.opens = opens if capsule.opens is None else capsule.opens
            if namespace.opens:
                self._lend(capsule, namespace, link)
        link.close()
        self._bring_shared(link)

    def check_exports(self, link: Link) -> None:
        """Post-load: every pattern fits something, and no two capsules define one symbol."""
        owner: dict[tuple[str, str | None], Dso] = {}
        for capsule in self._capsules:
            namespace = self._namespace(capsule, link)
            names: set[str] = set()
            for library in dict.fromkeys(namespace.names[n] for n in capsule.libraries):
                table = link.exports(library)
                for symbol in [] if table is None else table.symbol.tolist():
                    name = library.file.symbol_name(symbol)
                    names.add(name)
                    if name in _EVERYBODYS or not _fits(name, capsule.exports):
                        continue
                    other = owner.setdefault((name, library.file.symbol_version(symbol)), library)
                    if other.namespace is not namespace:
                        raise _twice(name, other, library)
            for pattern in capsule.exports:
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise LinkError(
                        "capsule/no-export",
                        f"no library of the capsule `{capsule.name}` defines `{pattern}`",
                        place=Place("spidl.toml", f"modules.capsule.capsules.{capsule.name}"),
                        notes=(f"libraries: {', '.join(capsule.libraries)}",),
                        help="`nm -D` of the library says what it defines",
                    )

    # -- finding ---------------------------------------------------------------------------------

    def _of(self, dso: Dso) -> Capsule | None:
        return next((c for c in self._capsules if c.name == dso.namespace.name), None)

    def _namespace(self, capsule: Capsule, link: Link) -> Namespace:
        for namespace in link.namespaces:
            if namespace.name == capsule.name and namespace is not link.main:
                return namespace
        for path in capsule.links:
            link.watch(os.path.dirname(path))
        namespace = Namespace(capsule.name, root=capsule.root)
        link.namespaces.append(namespace)
        return namespace

    def _exported(self, name: str, capsule: Capsule, link: Link) -> Need:
        """A library that the program is to have from a capsule."""
        need = self._in_root(name, None, capsule, link)
        if need.path is None:
            raise LinkError(
                "capsule/not-in-root",
                f"the root of the capsule `{capsule.name}` has no {name}",
                place=Place("spidl.toml", f"modules.capsule.capsules.{capsule.name}"),
                notes=(need.found,),
                help="install the package that has it in that root, and run ldconfig there",
            )
        return replace(need, namespace=self._namespace(capsule, link), because="capsule")

    def _in_root(self, name: str, asker: Dso | None, capsule: Capsule, link: Link) -> Need:
        if TREES not in link.facts:
            raise LinkError(
                "capsule/no-search",
                f"{link.root.name} is no program of glibc, and capsules need glibc",
                place=Place(link.root.path),
                help="start it without the module `capsule`",
            )
        return link.facts[TREES](name, capsule.root, asker, link)

    def _private(self, name: str, dso: Dso, capsule: Capsule, link: Link) -> Need:
        """What a capsule's library needs."""
        shares = capsule.shares(name)
        if shares is False:
            return self._in_root(name, dso, capsule, link)
        ours = self._shared(name, link)
        if shares is None:
            theirs = self._in_root(name, dso, capsule, link)
            if theirs.path is not None and not _covers(ours, theirs, link):
                return theirs
        return ours

    def _shared(self, name: str, link: Link) -> Need:
        """A library as the program has it, or would."""
        need = link.find(name, link.root, "shared with a capsule")
        assert isinstance(need, Need), "it is the program's own search"
        return need if need.namespace is not None else replace(need, namespace=link.main)

    def _lend(self, capsule: Capsule, namespace: Namespace, link: Link) -> None:
        """What the capsule opens has the program's libraries; of those that the program does not
        have at its start, the same files."""
        for name in sorted({*SHARED, *SHARED_IF_NEWER, *self._named_shared(capsule, link)}):
            known = link.known(name)
            if capsule.shares(name) is False:
                continue
            if known is not None and known.namespace is link.main:
                namespace.welcome(known)
            elif known is None and name not in namespace.names:
                need = self._private(name, namespace.members[0], capsule, link)
                if need.namespace is link.main and need.path is not None:
                    namespace.lent[name] = need.path

    @staticmethod
    def _named_shared(capsule: Capsule, link: Link) -> Iterator[str]:
        """The names that the patterns of ``shared`` fit, where the program has its libc."""
        libc = link.known("libc.so.6")
        present = [] if libc is None else os.listdir(os.path.dirname(libc.path))
        for pattern in capsule.shared:
            yield from fnmatch.filter(present, pattern)

    def _bring_shared(self, link: Link) -> None:
        """What only capsules need of the shared libraries comes behind all that the program has."""
        needed = {d for dso in link.main.members if dso.namespace is link.main
                  for d in dso.dependencies}  # fmt: skip
        for dso in [d for d in link.main.members if d.namespace is link.main]:
            newer = self._libc_from is not None and dso.names & SHARED
            if newer and dso.made_by is None:
                dso.made_by = self.name  # ld.so would find the program's own
            if not dso.is_root and dso not in needed and not dso.is_added:
                dso.made_by = self.name
                link.main.members.remove(dso)
                link.main.members.append(dso)

    def _stand_in_for_threads(self, library: Dso, link: Link) -> None:
        """ld.so finds the thread-locals of another namespace's library in an object of their own:
        it sets a block aside for it, which nobody uses, and looks nothing up there later."""
        symbols = library.file.symbols
        name = f"spidl-thread-locals-{library.number}.so"
        if link.known(name) is not None:
            return
        defined = {
            library.file.symbol_name(row): Define(bytes(int(symbols["st_size"][row]) or 1), STT.TLS)
            for row in np.flatnonzero(
                (symbols["st_info"] & 15 == STT.TLS) & (symbols["st_shndx"] != SHN.UNDEF)
            ).tolist()
        }
        if defined:
            content = build_dso(name, defined)
            link.main.members.remove(link.add(MemoryObject(name, content, "thread-locals")))


def _breadth_first(first: list[Dso]) -> list[Dso]:
    """The scope of libraries: they, and what they need, breadth first."""
    order, todo = list(dict.fromkeys(first)), deque(dict.fromkeys(first))
    own = first[0].namespace
    while todo:
        for dso in todo.popleft().dependencies:
            if dso not in order:
                order.append(dso)
                if dso.namespace is own:
                    todo.append(dso)
    return order


def _covers(ours: Need, theirs: Need, link: Link) -> bool:
    """Whether the program's library defines every version that the other root's does."""
    known = link.known(ours.name)
    assert theirs.path is not None
    if known is None and ours.path is None:
        return False
    file = known.file if known is not None else link.files.open(ours.path or "")
    defined = {version.name for version in file.verdefs}
    return {version.name for version in link.files.open(theirs.path).verdefs} <= defined


def _imports(dso: Dso, names: Collection[str]) -> bool:
    hashes = np.array([name_hash(name.encode()) for name in names], np.uint64)
    asked = dso.file.symbols["st_shndx"] == SHN.UNDEF
    return bool(np.isin(dso.file.name_hashes[asked], hashes).any())


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _twice(name: str, one: Dso, other: Dso) -> LinkError:
    return LinkError(
        "capsule/symbol-twice",
        f"`{name}` would come from the capsule `{one.namespace}` ({one.name}) and from "
        f"`{other.namespace}` ({other.name})",
        place=Place("spidl.toml", f"modules.capsule.capsules.{other.namespace}"),
        help="narrow `exports` of one of them",
    )
