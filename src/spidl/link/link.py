"""One run of the pipeline: objects, passes, seals.

`Link.run` is the architecture: a sentence a phase.  Everything that can go wrong with the input
goes wrong before ``start``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import UnionType
from typing import Any, ParamSpec, TypeVar, cast

from spidl.diagnostics import LinkError, Place
from spidl.elf import ElfFile
from spidl.link.actions import Action, FileIdentity, Jump
from spidl.link.dso import Dso, MemoryObject, Need, identity_of
from spidl.link.environment import Environment
from spidl.link.facts import Facts
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


@dataclass(frozen=True, slots=True)
class PassRun:
    """One pass that ran: for explain."""

    phase: str
    module: str
    dso: str
    run: str
    strong: bool


class Link:
    """A program on its way to an image.

    ``objects`` is in load order, the program first.  ``inputs`` holds every file that was read,
    ``absent`` every path that was looked for in vain before the one that was found.  What
    ``store`` has of an object is not parsed again.
    """

    def __init__(
        self,
        program: str | MemoryObject,
        modules: Sequence[Module],
        environment: Environment | None = None,
        *,
        store: ObjectStore | Objects | None = None,
    ) -> None:
        self.program = program if isinstance(program, str) else program.name
        self._program = (
            Need(program, program, because="the program") if isinstance(program, str) else program
        )
        self.modules = tuple(modules)
        self.environment = environment or Environment()
        self.objects: list[Dso] = []
        self.pipelines: list[Pipeline] = []
        self.main = Namespace("main")
        self.space = AddressSpace()
        self.facts = Facts()
        self.inputs: dict[str, FileIdentity] = {}
        self.absent: dict[str, None] = {}
        self.history: list[PassRun] = []
        self.bindings: list[Bindings] = []
        self.actions: list[Action] = []
        self.files = store if isinstance(store, Objects) else Objects(store)
        self._mediator = Mediator(self)
        self._names: dict[str, Dso] = {}
        self._by_inode: dict[tuple[int, int], Dso] = {}
        self._current: Provenance | None = None
        self._collected = False
        check_order(self.modules)

    @property
    def root(self) -> Dso:
        """The program."""
        return self.objects[0]

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
        done = self._close(0)
        self._post(POST_COLLECT)
        self._close(done)
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
                by = Provenance(PROTECT.name, registered.module, dso.name)
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

    def known(self, name: str) -> Dso | None:
        """The object already known by a name: soname, requested name or path."""
        return self._names.get(name)

    def find(self, name: str, dso: Dso, because: str) -> Need | MemoryObject:
        """The object that ``dso`` names: known already, or where its finder finds it."""
        if self.known(name) is not None:
            return Need(name, because=because)
        finder = self.pipelines[dso.number].find
        if finder is None:
            return Need(name, because=because, found="no module looks for libraries")
        need = self.guard(finder[0], COLLECT.name, dso, finder[1], name, dso, self)
        return replace(need, because=because)

    def exists(self, path: str) -> bool:
        """Whether a file can be opened at ``path``; if not, that is recorded as an input."""
        if os.path.exists(path):
            return True
        self.absent[path] = None
        return False

    def watch(self, path: str) -> None:
        """Make a file or folder an input without reading it."""
        with suppress(OSError):
            self.inputs[path] = identity_of(os.stat(path))

    def read_input(self, path: str) -> bytes | None:
        """A configuration file as an input of the link; None when it cannot be read."""
        try:
            with open(path, "rb") as file:
                self.inputs[path] = identity_of(os.fstat(file.fileno()))
                return file.read()
        except OSError:
            self.absent[path] = None
            return None

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
        if in_scope and dso.number >= count:
            # ld.so is shown it as a preload, and those come first.
            self.main.members.remove(dso)
            added = [m for m in self.main.members[1:] if m.made_by is not None]
            self.main.members.insert(1 + len(added), dso)
        return dso

    def resolve(self, requests: Requests) -> Bindings:
        """Bind a batch of symbols; the answers are kept for explain."""
        bindings = self._mediator.bind(requests)
        self.bindings.append(bindings)
        return bindings

    def exports(self, dso: Dso) -> Exports | None:
        """An object's symbol table as the mediator sees it; None if no module understands it."""
        return self._mediator.table(dso)

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
        self._current = Provenance(phase, registered.module, dso.name)
        self.history.append(
            PassRun(phase, registered.module, dso.name, registered.name, registered.strong)
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

    def _close(self, done: int) -> int:
        """Run the collect passes from object ``done`` on, until no new objects come."""
        while done < len(self.objects):
            dso = self.objects[done]
            # What modules add comes before the object's own needs, as LD_PRELOAD does.
            for registered in sorted(self.pipelines[done].passes(COLLECT), key=lambda p: p.strong):
                for need in self._results(COLLECT, registered, dso, Need | MemoryObject):
                    by = None if registered.strong else registered.module
                    found = self._add(need, dso, made_by=by)
                    if found not in dso.dependencies:
                        dso.dependencies.append(found)
            done += 1
        return done

    def _add(
        self,
        need: Need | MemoryObject,
        loader: Dso | None,
        *,
        in_scope: bool = True,
        made_by: str | None = None,
    ) -> Dso:
        known = self._names.get(need.name)
        if known is not None:
            return known
        if isinstance(need, MemoryObject):
            file = ElfFile.parse(need.content, need.name)
            module = self._current.module if self._current else None
            return self._register(file, need.name, need.name, loader, need.because, "in memory",
                                  None, in_scope, made_by=module)  # fmt: skip
        return self._add_file(need, loader, in_scope=in_scope, made_by=made_by)

    def _add_file(
        self, need: Need, loader: Dso | None, *, in_scope: bool = True, made_by: str | None = None
    ) -> Dso:
        if need.path is None:
            asker = self.program if loader is None else loader.path
            raise LinkError(
                "collect/not-found",
                f"{need.name} is needed and was not found",
                place=Place(asker),
                notes=() if not need.found else (need.found,),
                help="install the package that has it, or set LD_LIBRARY_PATH to its folder",
            )
        by = None if loader is None else f"{loader.path} ({need.because})"
        file = self.files.open(need.path, by)
        assert file.stat is not None
        inode = (file.stat.st_dev, file.stat.st_ino)
        known = self._by_inode.get(inode)
        if known is not None:
            known.names.add(need.name)
            self._names[need.name] = known
            return known
        name = os.path.basename(need.path) if loader is None else (file.soname or need.name)
        dso = self._register(file, name, need.path, loader, need.because, need.found,
                             identity_of(file.stat), in_scope, made_by=made_by)  # fmt: skip
        self._by_inode[inode] = dso
        self.inputs[need.path] = identity_of(file.stat)
        if loader is not None:
            dso.names.add(need.name)
            self._names[need.name] = dso
        return dso

    def _register(
        self, file: ElfFile, name: str, path: str, loader: Dso | None, because: str, found: str,
        identity: FileIdentity | None, in_scope: bool, *, made_by: str | None,
    ) -> Dso:  # fmt: skip
        dso = Dso(len(self.objects), name, path, file, self.main, loader, because, found, identity,
                  made_by=made_by)  # fmt: skip
        dso.names |= {n for n in (file.soname, path if loader else None) if n}
        for known in dso.names:
            self._names.setdefault(known, dso)
        self.objects.append(dso)
        if in_scope:
            self.main.members.append(dso)
        pipeline = Pipeline(dso)
        self.pipelines.append(pipeline)
        before = self._current
        for module in self.modules:
            pipeline.module = module.name
            self._current = Provenance("register", module.name, dso.name)
            self.guard(module.name, "register", dso, module.register, dso, pipeline)
        self._current = before
        return dso
