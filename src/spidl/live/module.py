"""The module that makes a link a live one: its finder, its load pass, its thread-local storage.

It comes after the modules that know the format (sysv, gnu) and takes over from them where the
process has already decided: residents keep their addresses, private objects get what their shells
got.  `Aside` keeps the passes of every other module away from residents: their memory is not ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from spidl.elf import R
from spidl.link.dso import Dso, MemoryObject, Need
from spidl.link.link import Link
from spidl.link.module import Module
from spidl.link.phases import COLLECT, LOAD, POST_COLLECT, POST_LOAD
from spidl.link.pipeline import Pipeline
from spidl.link.recipes import LAZY, RECIPES
from spidl.link.symbols import Exports
from spidl.live.exports import Exporter, cut_down, without
from spidl.live.store import open_files
from spidl.live.tls import descriptor, thread_offset
from spidl.modules.gnu.tree import find_in_tree

if TYPE_CHECKING:
    from spidl.link.pipeline import Finder
    from spidl.live.loading import Loading
    from spidl.live.residents import Residents


class Aside(Module):
    """Another module that leaves residents alone: it may only read their symbols and answer."""

    inner: Module
    there: Residents

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if self.there.of(dso) is None:
            self.inner.register(dso, pipeline)
            return
        apart = Pipeline(dso)
        apart.module = pipeline.module
        apart.exporter = pipeline.exporter
        apart.resolvers = pipeline.resolvers
        self.inner.register(dso, apart)
        pipeline.exporter = apart.exporter  # of all that it registered


def aside(module: Module, there: Residents) -> Module:
    """``module`` under its own name, kept away from residents."""
    kind = type(module)
    if kind not in _aside:
        own = {"name": kind.name, "after": kind.after, "policy": kind.policy}
        _aside[kind] = type(kind.__name__, (Aside,), own)
    return _aside[kind](module, there)


_aside: dict[type[Module], Callable[[Module, Residents], Module]] = {}


class Live(Module):
    """Brings the process into a link."""

    after = ("sysv",)

    loading: Loading

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        loading = self.loading
        pipeline.strong(POST_LOAD, loading.place_tls)
        present = loading.residents.of(dso)
        if pipeline.exporter is not None:
            self._cut(pipeline, pipeline.exporter[1], present is None or present.member is not None)
        if present is not None:
            pipeline.strong(LOAD, loading.stay)
            if present.member is None:
                open_files().hold(dso.file)
            return
        if pipeline.find is not None:
            pipeline.finder(self._finder(pipeline.find[1]))
        if dso.is_root:
            pipeline.weak(COLLECT, self.residents)
            pipeline.weak(POST_COLLECT, loading.order_scope)
            pipeline.weak(POST_COLLECT, self.bring_recipes)
        else:
            pipeline.strong(LOAD, loading.place)

    def _cut(self, pipeline: Pipeline, whole: Exporter, is_private: bool) -> None:
        """Show the rest of the link less of an object's symbols."""

        def cut(dso: Dso, link: Link) -> Exports:
            table = (
                cut_down(dso, link, whole, self.loading.asked(dso))
                if self.loading.cuts
                else whole(dso, link)
            )
            return without(table, self.loading.only_once) if is_private else table

        pipeline.exports(cut)

    def residents(self, dso: Dso, link: Link) -> Iterator[Need | MemoryObject]:
        """The process and the namespace's earlier libraries are part of the link."""
        for path in self.loading.residents.paths:
            yield Need(path, path, because="the process has it")
        for one in link.objects[1:]:  # RPATH is handed on by who loaded it
            present = self.loading.residents.of(one)
            if present is not None and present.member is not None and present.member.loader:
                one.loader = link.known(present.member.loader.path) or one.loader

    def _finder(self, earlier: Finder) -> Finder:
        """What is there under a name, else a file that is to be loaded."""

        def find(name: str, dso: Dso, link: Link) -> Need | MemoryObject:
            path = self.loading.residents.find(name)
            if path is not None:
                return Need(name, path, found="the process has it")
            opener = self.loading.asker
            if dso.is_root and opener is not None:
                dso = link.known(opener.path) or dso
            root = self.loading.namespace.root
            if root is None:
                return earlier(name, dso, link)
            found = find_in_tree(name, root, dso, link)
            inside = name.removeprefix(root.rstrip("/"))
            if found.path is None and inside.startswith("/") and inside != name:
                # A path that it got from dladdr, say.
                found = find_in_tree(inside, root, dso, link)
            return replace(found, name=name)

        return find

    def bring_recipes(self, link: Link) -> None:
        """TLS offsets and descriptors come from the shells; every slot is bound now."""
        link.facts[LAZY] = False
        states = self.loading.tls_states
        recipes = link.facts.setdefault(RECIPES, {})

        recipes[R.TPOFF64] = replace(
            recipes[R.TPOFF64], apply=lambda batch: thread_offset(batch, states)
        )
        recipes[R.TLSDESC] = replace(
            recipes[R.TLSDESC], apply=lambda batch: descriptor(batch, states)
        )
