"""One run of the pipeline: objects, passes, seals.

`Link.run` is the architecture: a sentence a phase.  Everything that can go wrong with the input
goes wrong before ``start``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any, ParamSpec, TypeVar, cast

from spidl.diagnostics import LinkError, Place
from spidl.elf import ElfFile
from spidl.link.actions import Action, FileIdentity, Jump
from spidl.link.dso import Dso, MemoryObject, Need, identity_of
from spidl.link.environment import Environment
from spidl.link.facts import Facts
from spidl.link.inputs import Inputs
from spidl.link.mediator import Mediator
from spidl.link.module import Module, check_order, expect_result, failed
from spidl.link.namespace import Namespace
from spidl.link.objects import Objects, ObjectStore
from spidl.link.phases import (
    COLLECT,
    LOAD,
    POST_COLLECT,
    POST_LOAD,
    POST_PROTECT,
    POST_RELOCATE,
    PROTECT,
    RELOCATE,
    START,
    Phase,
    PostPhase,
)
from spidl.link.pipeline import Pipeline, Registered
from spidl.link.space import AddressSpace, Placement, Protect, Provenance
from spidl.link.symbols import Bindings, Definition, Exports, Requests

P = ParamSpec("P")
T = TypeVar("T")


def _is_strong(registered: Registered[Any]) -> bool:
    return registered.strong


@dataclass(frozen=True, slots=True)
class PassRun:
    """One pass that ran: for explain."""

    phase: str
    module: str
    dso: str
    run: str
    strong: bool


class Link(Inputs):
    """A program on its way to an image.

    ``objects`` is in load order, the program first.  What ``store`` has of an object is not parsed
    again.
    """

    def __init__(
        self,
        program: str | MemoryObject,
        modules: Sequence[Module],
        environment: Environment | None = None,
        *,
        store: ObjectStore | Objects | None = None,
    ) -> None:
        super().__init__()
        self.program = program if isinstance(program, str) else program.name
        self._program = (
            Need(program, program, because="the program") if isinstance(program, str) else program
        )
        self.modules = tuple(modules)
        self.environment = environment or Environment()
        self.objects: list[Dso] = []
        self.pipelines: list[Pipeline] = []
        self.main = Namespace("main")
        self.namespaces = [self.main]
        """The program's and those that modules add."""
        self.space = AddressSpace()
        self.facts = Facts()
        self.history: list[PassRun] = []
        self.bindings: list[Bindings] = []
        self.actions: list[Action] = []
        self.files = store if isinstance(store, Objects) else Objects(store)
        self._mediator = Mediator(self)
        self._current: Provenance | None = None
        self._collected = False
        self._closed = 0
        check_order(self.modules)

    @property
    def root(self) -> Dso:
        """The program."""
        return self.objects[0]

    @property
    def apart(self) -> list[Dso]:
        """Objects of other namespaces than the program's."""
        return [dso for dso in self.objects if dso.namespace is not self.main]

    # -- the phases ------------------------------------------------------------------------------

    def run(self, loaded: Callable[[Link], None] | None = None) -> None:
        """All phases.  Raises `LinkError` with the phase's name in its code.

        ``loaded`` is called when every address is known: for a target's work that needs no more.
        """
        self.collect()
        self.load()
        if loaded is not None:
            loaded(self)
        self.relocate()
        self.protect()
        self.start()

    def collect(self) -> None:
        """Open the program and, breadth-first, whatever is needed, until the set is closed."""
        self._add(self._program, None)
        self.close()
        self._post(POST_COLLECT)
        self.close()
        self._collected = True

    def load(self) -> None:
        """Each object gets its address; beyond this point nothing new is mapped."""
        for dso, pipeline in zip(self.objects, self.pipelines, strict=True):
            passes = pipeline.passes(LOAD)
            if not any(p.strong for p in passes):
                raise LinkError(
                    "load/no-pass",
                    f"no module loads {dso.name}",
                    place=Place(dso.path),
                    notes=(f"modules: {', '.join(m.name for m in self.modules)}",),
                    help="add a module that understands this kind of file, for instance sysv",
                )
            for registered in passes:
                placement = self._run(LOAD.name, registered, dso, dso, self)
                expect_result(placement, Placement, LOAD.name, registered.module, dso.path)
                if registered.strong:
                    dso._bias = placement.bias
                for mapping in placement.mappings:
                    self.space.map(mapping)
        self._post(POST_LOAD)
        self.space.seal("mappings")

    def relocate(self) -> None:
        """Symbols are bound and words written; beyond this point memory is final."""
        for dso, pipeline in zip(self.objects, self.pipelines, strict=True):
            for registered in pipeline.passes(RELOCATE):
                self._run(RELOCATE.name, registered, dso, dso, self)
        self._post(POST_RELOCATE)
        self.space.seal("writes")
        self.files.keep(dso.file for dso in self.objects)

    def protect(self) -> None:
        """Final permissions."""
        for dso, pipeline in zip(self.objects, self.pipelines, strict=True):
            for registered in pipeline.passes(PROTECT):
                by = Provenance(PROTECT.name, registered.module, dso.label)
                for protect in self._results(PROTECT, registered, dso, Protect):
                    self.space.protect(protect, by)
        self._post(POST_PROTECT)
        self.space.seal("permissions")

    def start(self) -> None:
        """Gather what only the started process can do; entering the program comes last."""
        jumps: list[Action] = []
        for dso, pipeline in zip(self.objects, self.pipelines, strict=True):
            for registered in pipeline.passes(START):
                for action in self._results(START, registered, dso, Action):
                    (jumps if isinstance(action, Jump) else self.actions).append(action)
        if len(jumps) != 1:
            raise LinkError(
                "start/no-entry",
                f"{len(jumps)} modules enter the program {self.root.name}, not one",
                place=Place(self.root.path),
                help="exactly one start pass must give a Jump",
            )
        self.actions += jumps

    # -- what passes call ------------------------------------------------------------------------

    def known(self, name: str, asker: Dso | None = None) -> Dso | None:
        """The object already known by a name (soname, requested name or path) where the asker
        belongs: to the program, if nobody is named."""
        namespace = self.main if asker is None else asker.namespace
        return namespace.names.get(name)

    def find(self, name: str, dso: Dso, because: str) -> Need | MemoryObject:
        """The object that ``dso`` names: known already, or where its finder finds it."""
        if self.known(name, dso) is not None:
            return Need(name, because=because)
        finder = self.pipelines[dso.number].find
        if finder is None:
            return Need(name, because=because, found="no module looks for libraries")
        need = self.guard(finder[0], COLLECT.name, dso, finder[1], name, dso, self)
        return replace(need, because=because)

    def add(self, need: Need | MemoryObject, *, in_scope: bool = True) -> Dso:
        """Add an object in post-collect, in scope behind what is preloaded; sealed after that.

        Raises `LinkError` ``collect/sealed``.
        """
        if self._collected:
            raise LinkError(
                "collect/sealed",
                f"module `{self.by.module}` adds {need.name} in {self.by.phase}, after the set of "
                "objects was sealed",
                place=Place(self.by.dso),
                help="return it from a collect pass, or add it in post-collect",
            )
        # Out of scope are parts of the system's linker, which it needs not be shown.
        module = self.by.module if in_scope else None
        count = len(self.objects)
        dso = self._add(need, self.root, in_scope=in_scope, made_by=module)
        if in_scope and dso.number >= count:  # ld.so is shown it as a preload: those come first
            self.main.members.remove(dso)
            added = [m for m in self.main.members[1:] if m.made_by is not None]
            self.main.members.insert(1 + len(added), dso)
        return dso

    def close(self) -> None:
        """Run the collect passes of objects that are new, until no more come."""
        before = self._current
        while self._closed < len(self.objects):
            dso = self.objects[self._closed]
            # What modules add comes before the object's own needs, as LD_PRELOAD does.
            for registered in sorted(self.pipelines[self._closed].passes(COLLECT), key=_is_strong):
                for need in self._results(COLLECT, registered, dso, Need | MemoryObject):
                    by = None if registered.strong else registered.module
                    found = self._add(need, dso, made_by=by)
                    if found not in dso.dependencies:
                        dso.dependencies.append(found)
            self._closed += 1
        self._current = before

    def resolve(self, requests: Requests) -> Bindings:
        """Bind a batch of symbols; the answers are kept for explain."""
        bindings = self._mediator.bind(requests)
        self.bindings.append(bindings)
        return bindings

    def exports(self, dso: Dso) -> Exports | None:
        """An object's symbol table as the mediator sees it; None if no module understands it."""
        return self._mediator.table(dso)

    def visible(self, dso: Dso, namespace: Namespace) -> Exports | None:
        """What a namespace sees of a member's symbols; None if no module understands it."""
        return self._mediator.visible(dso, namespace)

    def definition(self, dso: Dso, name: str, version: str | None = None) -> Definition:
        """A symbol that ``dso`` exports, for a resolver to answer with.

        Without a version it is the default one.  Raises `LinkError` ``relocate/no-definition``,
        and ``link/too-early`` before load.
        """
        return self._mediator.definition(dso, name, version)

    @property
    def by(self) -> Provenance:
        """The pass that runs now, as a provenance."""
        assert self._current is not None, "only passes ask who they are"
        return self._current

    # -- inside ----------------------------------------------------------------------------------

    def guard(
        self, module: str, phase: str, dso: Dso, call: Callable[P, T], *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:  # fmt: skip
        """Call into a module; whatever it raises becomes a `LinkError` that names it."""
        try:
            return call(*args, **kwargs)
        except LinkError:
            raise
        except (Exception, SystemExit) as error:
            raise failed(module, phase, dso.path, error) from error

    def _run(self, phase: str, registered: Registered[T], dso: Dso, *arguments: object) -> T:
        self._current = Provenance(phase, registered.module, dso.label)
        self.history.append(
            PassRun(phase, registered.module, dso.label, registered.name, registered.strong)
        )
        return self.guard(registered.module, phase, dso, registered.run, *arguments)

    def _results(
        self,
        phase: Phase[Any],
        registered: Registered[Iterable[T]],
        dso: Dso,
        kind: type[T] | UnionType,
    ) -> Iterator[T]:
        """What a pass gives, one at a time: it may look at the link between two of them."""
        module = registered.module
        results = self._run(phase.name, registered, dso, dso, self)
        expect_result(results, Iterable, phase.name, module, dso.path)
        iterator = self.guard(module, phase.name, dso, iter, results)
        end = object()
        while (item := self.guard(module, phase.name, dso, next, iterator, end)) is not end:
            expect_result(item, kind, phase.name, module, dso.path)
            yield cast(T, item)

    def _post(self, phase: PostPhase) -> None:
        """Run a post-phase: each pass once, however many objects it was registered for."""
        seen: set[Callable[..., None]] = set()
        for pipeline in self.pipelines:
            for registered in pipeline.link_passes(phase):
                if registered.run not in seen:
                    seen.add(registered.run)
                    self._run(phase.name, registered, pipeline.dso, self)

    def _add(
        self,
        need: Need | MemoryObject,
        loader: Dso | None,
        *,
        in_scope: bool = True,
        made_by: str | None = None,
    ) -> Dso:
        asking = self.main if loader is None else loader.namespace
        namespace = (need.namespace if isinstance(need, Need) else None) or asking
        dso = asking.names.get(need.name) or namespace.names.get(need.name)
        if dso is None and isinstance(need, MemoryObject):
            file = ElfFile.parse(need.content, need.name)
            module = self._current.module if self._current else None
            dso = self._register(file, need.name, need.name, namespace, loader, need.because,
                                 "in memory", None, in_scope, made_by=module)  # fmt: skip
        elif dso is None:
            assert isinstance(need, Need)
            dso = self._add_file(need, namespace, loader, in_scope=in_scope, made_by=made_by)
        if dso.namespace is not asking:
            asking.learn(need.name, dso)
            if in_scope:
                asking.welcome(dso)
        return dso

    def _add_file(
        self, need: Need, namespace: Namespace, loader: Dso | None, *, in_scope: bool,
        made_by: str | None,
    ) -> Dso:  # fmt: skip
        if need.path is None:
            raise need.missing(self.program if loader is None else loader.path)
        by = None if loader is None else f"{loader.path} ({need.because})"
        file = self.files.open(need.path, by)
        assert file.stat is not None
        inode = (file.stat.st_dev, file.stat.st_ino)
        dso = namespace.inodes.get(inode)
        if dso is None:
            name = os.path.basename(need.path) if loader is None else (file.soname or need.name)
            dso = self._register(file, name, need.path, namespace, loader, need.because,
                                 need.found, identity_of(file.stat), in_scope,
                                 made_by=made_by)  # fmt: skip
            namespace.inodes[inode] = dso
            self.inputs[need.path] = identity_of(file.stat)
        if loader is not None:
            namespace.learn(need.name, dso)
        return dso

    def _register(
        self, file: ElfFile, name: str, path: str, namespace: Namespace, loader: Dso | None,
        because: str, found: str, identity: FileIdentity | None, in_scope: bool, *,
        made_by: str | None,
    ) -> Dso:  # fmt: skip
        dso = Dso(len(self.objects), name, path, file, namespace, loader, because, found, identity,
                  made_by=made_by)  # fmt: skip
        dso.names |= {n for n in (file.soname, path if loader else None) if n}
        for known in dso.names:
            namespace.names.setdefault(known, dso)
        self.objects.append(dso)
        if in_scope:
            namespace.members.append(dso)
        pipeline = Pipeline(dso)
        self.pipelines.append(pipeline)
        before = self._current
        for module in self.modules:
            pipeline.module = module.name
            self._current = Provenance("register", module.name, dso.label)
            self.guard(module.name, "register", dso, module.register, dso, pipeline)
        self._current = before
        return dso
