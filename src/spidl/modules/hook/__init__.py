"""Hook: functions of another object take the place of bound symbols, chosen by name and caller.

The words that hold a binding are written with the hook's address at link time, so a hooked call
costs what any other does.  The hook's own object is bound as usual: what it asks for under the
original's name is the original.
"""

from __future__ import annotations

from dataclasses import field

from spidl.api import (
    COLLECT,
    POST_LOAD,
    POST_RELOCATE,
    START,
    STT,
    CallStore,
    Definition,
    Dso,
    Link,
    LinkError,
    MemoryObject,
    Module,
    Need,
    Pipeline,
    Reference,
    SymbolRequest,
    restore,
)
from spidl.modules.hook.plan import Hooked, Plan, indirect, make_plan
from spidl.modules.hook.rules import Rule, Value, parse_rules

__all__ = ["Hook"]

_POINTER = 8


class Hook(Module):
    """Functions of another object take the place of bound symbols, by name and by caller."""

    after = ("sysv",)
    policy = True

    rules: list[dict[str, Value]] | list[str] | str = field(default_factory=list)

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if not dso.is_root:
            return
        self._parsed = parse_rules(self.rules)
        pipeline.weak(COLLECT, self.collect)
        pipeline.weak(POST_LOAD, self.plan)
        pipeline.resolver(self.resolve)
        pipeline.weak(POST_RELOCATE, self.write)
        pipeline.weak(START, self.start)

    def collect(self, dso: Dso, link: Link) -> list[Need | MemoryObject]:
        """The objects that have the hooks, as if LD_PRELOAD named them."""
        self._names: dict[str, str] = {}
        needs: list[Need | MemoryObject] = []
        for rule in self._parsed:
            if rule.object not in self._names:
                need = link.find(rule.object, dso, "hook")
                self._names[rule.object] = need.name
                needs.append(need)
        return needs

    def plan(self, link: Link) -> None:
        """Choose the bindings to hook, now that every object has its address."""
        objects: dict[str, Dso] = {}
        for path, name in self._names.items():
            found = link.known(name)
            assert found is not None, "it was collected"
            objects[path] = found
        self._plan: Plan = make_plan(link, self._parsed, objects)

    def resolve(self, request: SymbolRequest, dso: Dso, link: Link) -> Definition | None:
        """The hook for a binding that was chosen."""
        return self._plan.answers.get((request.dso.number, request.symbol))

    def write(self, link: Link) -> None:
        """Fill the pointers to originals, and leave function pointers alone where that is asked."""
        for hooked in self._plan.hooked:
            if not hooked.rule.pointers:
                _keep_pointers(hooked, link)
        self._calls: list[CallStore] = []
        for slot, reference in _pointers(self._plan, link).items():
            if reference.is_indirect:
                # Only the running process knows what the resolver chooses.
                self._calls.append(CallStore(reference.address, slot))
            else:
                link.space.patch(slot, reference.address.to_bytes(8, "little"), link.by)

    def start(self, dso: Dso, link: Link) -> list[CallStore]:
        return self._calls


def _pointers(plan: Plan, link: Link) -> dict[int, Reference]:
    """Addresses of variables and the originals that belong into them.

    Raises `LinkError` ``hook/no-variable``, ``hook/two-originals``.
    """
    slots: dict[int, Hooked] = {}
    for hooked in plan.hooked:
        name = hooked.rule.variable(hooked.reference.name)
        if name is None:
            continue
        variable = _variable(hooked.rule, name, plan.objects[hooked.rule.object], link)
        other = slots.setdefault(variable.address, hooked)
        before, now = other.reference, hooked.reference
        if (before.provider, before.definition) != (now.provider, now.definition):
            raise LinkError(
                "hook/two-originals",
                f"`{name}` cannot hold the address of both {_told(before)} and {_told(now)}",
                place=hooked.rule.place,
                notes=(f"{before.dso} asks for the first, {now.dso} for the second",),
                help='give each its own: `original = "real_*"`, where * is the symbol\'s name, or '
                "one rule a version (symbol = \"NAME@VERSION\")",
            )  # fmt: skip
    return {slot: hooked.reference for slot, hooked in slots.items()}


def _told(reference: Reference) -> str:
    version = reference.version
    name = reference.name if version is None else f"{reference.name}@{version}"
    return f"{name} of {reference.provider}"


def _variable(rule: Rule, name: str, dso: Dso, link: Link) -> Definition:
    """The variable that is to hold an original.  Raises `LinkError` ``hook/no-variable``."""
    try:
        found = link.definition(dso, name)
    except LinkError:
        found = None
    if found is None or found.type != STT.OBJECT or found.size != _POINTER:
        what = "does not define it" if found is None else "it is no pointer"
        raise LinkError(
            "hook/no-variable",
            f"{dso} has no variable `{name}` for the original",
            place=rule.place,
            notes=(f"{dso.path}: {what}",),
            help=f"define `void *{name};` there, neither static nor hidden",
        )
    return found


def _keep_pointers(hooked: Hooked, link: Link) -> None:
    """Raises `LinkError` ``hook/indirect``."""
    reference = hooked.reference
    if len(reference.pointers) and reference.is_indirect:
        raise indirect(reference, hooked.rule.place, "leave `pointers` out: then they are hooked")
    restore(reference, link, reference.pointers)
