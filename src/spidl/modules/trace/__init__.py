"""Trace: calls through chosen bindings are counted, or written down with their arguments.

Bindings lead to thunks in a generated object, which count and go on to the original; nothing else
of the program changes, and what is not chosen costs nothing.
"""

from __future__ import annotations

import os
from dataclasses import field

import numpy as np

from spidl.api import (
    I64,
    POST_COLLECT,
    POST_RELOCATE,
    START,
    STT,
    Call,
    Definition,
    Dso,
    Link,
    LinkError,
    MemoryObject,
    Module,
    Need,
    Pipeline,
    Place,
    Reference,
    References,
    SymbolRequest,
    is_called,
    restore,
)
from spidl.modules.trace import layout
from spidl.modules.trace.rules import Rule, Value, parse_rules
from spidl.modules.trace.slots import Uses
from spidl.modules.trace.thunks import NAME, THUNKS, Import, build, import_of, thunk

__all__ = ["Trace"]

_LIBRARY = os.path.join(os.path.dirname(__file__), "trace.so")


class Trace(Module):
    """Calls through chosen bindings are counted, or written down with their arguments."""

    after = ("sysv",)
    policy = True

    rules: list[dict[str, Value]] | list[str] | str = field(default_factory=lambda: ["*"])
    output: str = "stderr"
    pointers: bool = False

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if not dso.is_root:
            return
        self._rules = parse_rules(self.rules)
        if self.output != "stderr" and not self.output.startswith("/"):
            raise LinkError(
                "config/wrong-value", f"`{self.output}` is no value of modules.trace.output",
                place=Place("modules.trace"), help="it must be `stderr` or an absolute path",
            )  # fmt: skip
        pipeline.weak(POST_COLLECT, self.add)
        pipeline.resolver(self.resolve)
        pipeline.weak(POST_RELOCATE, self.finish)
        pipeline.weak(START, self.start)

    def add(self, link: Link) -> None:
        """Choose the bindings, and add the objects that they are to go through.

        Raises `LinkError` ``trace/no-match``, ``trace/no-library``.
        """
        chosen = _choose(link, self._rules, pointers=self.pointers)
        if not os.path.exists(_LIBRARY):
            raise LinkError(
                "trace/no-library", "the library of the trace module is missing",
                place=Place(_LIBRARY),
                help="install spidl with pip, or run `make -C boot` in a source tree",
            )  # fmt: skip
        calls: list[tuple[layout.Call, Import]] = []
        self._thunks: dict[tuple[int, int], int] = {}
        self._first: int | None = None
        self._kept: list[tuple[Reference, I64]] = []
        for number, (rule, reference, kept) in enumerate(chosen):
            self._kept.append((reference, kept))
            logs = rule.mode == "log"
            prototype = rule.prototype_of(reference.name) if logs else None
            told = layout.Call(str(reference.dso), reference.name, str(reference.provider),
                               rule.lines if logs else "", prototype)  # fmt: skip
            calls.append((told, import_of(reference)))
            self._thunks[reference.dso.number, reference.symbol] = number
        table = layout.encode(
            [call for call, _ in calls], os.urandom(16),
            "" if self.output == "stderr" else self.output,
            table=any(rule.mode == "count" for rule in self._rules),
        )  # fmt: skip
        self._library = link.add(Need(_LIBRARY, _LIBRARY, because="trace"))
        self._object = link.add(MemoryObject(NAME, build(calls, table), "trace"))

    def resolve(self, request: SymbolRequest, dso: Dso, link: Link) -> Definition | None:
        """The thunk for a binding that was chosen."""
        number = self._thunks.get((request.dso.number, request.symbol))
        if number is None:
            return None
        if self._first is None:
            self._first = link.definition(self._object, THUNKS).address
        return Definition(self._object, request.name, self._first + thunk(number), STT.FUNC)

    def finish(self, link: Link) -> None:
        """Function pointers stay what they are: programs compare them."""
        for reference, rows in self._kept:
            if not reference.is_indirect:
                restore(reference, link, rows)

    def start(self, dso: Dso, link: Link) -> list[Call]:
        """Before any code of the program's: the output and the counters."""
        return [Call(link.definition(self._library, "spidl_trace_start").address)]


def _choose(link: Link, rules: list[Rule], *, pointers: bool) -> list[tuple[Rule, Reference, I64]]:
    """Each binding with the first rule that fits, and the rows of DT_RELA that it leaves alone.

    Left out is what the run-time linker binds itself, data, and a definition that the program's
    scope does not have under the same name (an object that binds to itself, a capsule): a thunk
    could not find it.  Raises `LinkError` ``trace/no-match``.
    """
    runtime = link.root.file.interp
    references = References(link)
    chosen = []
    none = np.zeros(0, np.int64)
    for dso in link.objects:
        own = [rule for rule in rules if is_called(dso, rule.callers)]
        if dso.path == runtime or not own:
            continue
        uses = None
        for reference in references.of(dso, sorted({rule.symbol for rule in own})):
            rule = next((rule for rule in own if rule.fits(reference)), None)
            if rule is None or not reference.is_function:
                continue
            if not references.same_in(link.root.namespace, reference):
                continue
            uses = uses or Uses(dso)
            kept, called = (none, True) if pointers else uses.addresses(reference)
            if called:
                chosen.append((rule, reference, kept))
    used = {rule.number for rule, _, _ in chosen}
    for rule in rules:
        if rule.number not in used:
            raise _no_match(link, rule, references)
    return chosen


def _no_match(link: Link, rule: Rule, references: References) -> LinkError:
    from difflib import get_close_matches

    names = {one.name for dso in link.objects for one in references.of(dso) if one.is_function}
    near = get_close_matches(rule.symbol, sorted(names), cutoff=0.5)
    return LinkError(
        "trace/no-match",
        f"no function is bound as the rule says: `{rule.symbol}` of `{rule.of}`, for "
        f"{', '.join(f'`{caller}`' for caller in rule.callers)}",
        place=rule.place,
        notes=(f"objects ask for {', '.join(near)}" if near else "no name comes near",),
        help="`spidl explain PROG SYMBOL` shows who is bound to what",
    )
