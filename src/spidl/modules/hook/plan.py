"""Which bindings the rules mean, and what each is bound to instead."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from spidl.api import (
    EXPECTED_RUNTIME,
    STT,
    Definition,
    Dso,
    Link,
    LinkError,
    Place,
    Reference,
    References,
    is_called,
)
from spidl.modules.hook.rules import Rule


@dataclass(frozen=True, slots=True)
class Hooked:
    """A reference with the original as its definition, and the rule that hooks it."""

    rule: Rule
    reference: Reference


@dataclass(frozen=True, slots=True)
class Plan:
    """By (number of the asking object, its symbol): what it is bound to."""

    answers: dict[tuple[int, int], Definition]
    hooked: list[Hooked]
    objects: Mapping[str, Dso]
    """The objects with the hooks, by what the rules call them."""


def make_plan(link: Link, rules: Sequence[Rule], objects: Mapping[str, Dso]) -> Plan:
    """Match every reference of every object with the rules; the first rule that fits counts.

    Raises `LinkError` ``hook/no-match``, ``hook/no-function``, ``hook/data``, ``hook/indirect``.
    """
    hooks = set(objects.values())
    plan = Plan({}, [], objects)
    natural, originals = References(link), References(link, without=hooks)
    added = {dso for dso in hooks if dso.made_by == link.by.module}
    names = sorted({rule.symbol for rule in rules}.union(*(_exported(link, d) for d in added)))
    for dso in _callers(link):
        bound = {one.symbol: one for one in natural.of(dso, names)}
        for reference in originals.of(dso, names):
            now = bound[reference.symbol]
            if now.provider is dso and dso in hooks:
                continue  # its own functions are its own
            rule = _rule_for(rules, reference, objects)
            if rule is not None:
                _hook(plan, link, rule, reference)
            elif now.provider in added and reference.is_function:
                # The hooks' object stands first in scope, but nobody asked for this one of it.
                if reference.is_indirect:
                    raise indirect(
                        reference, Place("modules.hook"),
                        f"give the function in {now.provider} another name, or make it static",
                    )  # fmt: skip
                plan.answers[dso.number, reference.symbol] = _definition(reference)
    used = {hooked.rule.number for hooked in plan.hooked}
    for rule in rules:
        if rule.number not in used:
            raise _no_match(link, rule, originals, objects)
    return plan


def _callers(link: Link) -> list[Dso]:
    """All objects but the run-time linker, which relocates itself."""
    runtime = link.facts.get(EXPECTED_RUNTIME, None)
    linker = None if runtime is None else runtime.linker
    return [dso for dso in link.objects if dso is not linker]


def _rule_for(
    rules: Sequence[Rule], reference: Reference, objects: Mapping[str, Dso]
) -> Rule | None:
    """The first rule that fits.  Raises `LinkError` ``hook/data``."""
    for rule in rules:
        if not fnmatchcase(reference.name, rule.symbol) or reference.dso is objects[rule.object]:
            continue
        if not is_called(reference.dso, rule.callers) or not _is_of(rule, reference):
            continue
        if not reference.is_function:
            if rule.is_pattern:
                continue
            raise LinkError(
                "hook/data",
                f"`{reference.name}` of {reference.provider} is data, not a function",
                place=rule.place,
                notes=(f"{reference.dso} asks for it",),
                help="only functions can be hooked; a pattern passes over data",
            )
        return rule
    return None


def _is_of(rule: Rule, reference: Reference) -> bool:
    if rule.version is not None and not fnmatchcase(reference.version or "", rule.version):
        return False
    return is_called(reference.provider, (rule.of,))


def _definition(reference: Reference) -> Definition:
    size = int(reference.provider.file.symbols["st_size"][reference.definition])
    return Definition(reference.provider, reference.name, reference.address, reference.type, size)


def _hook(plan: Plan, link: Link, rule: Rule, reference: Reference) -> None:
    """Raises `LinkError` ``hook/no-function``."""
    dso, name = plan.objects[rule.object], rule.replacement(reference.name)
    try:
        found = link.definition(dso, name)
    except LinkError:
        found = None
    if found is None or found.type not in (STT.FUNC, STT.NOTYPE):
        defined = _exported(link, dso)
        raise LinkError(
            "hook/no-function",
            f"{dso} has no function `{name}`, which is to take the place of `{reference.name}`",
            place=rule.place,
            notes=(f"{dso.path}: {_near(name, defined)}",),
            help="define it there, neither static nor hidden, or name another: function = ...",
        )
    plan.answers[reference.dso.number, reference.symbol] = found
    plan.hooked.append(Hooked(rule, reference))


def _exported(link: Link, dso: Dso) -> list[str]:
    table = link.exports(dso)
    return [] if table is None else [dso.file.symbol_name(s) for s in table.symbol.tolist()]


def indirect(reference: Reference, place: Place, help: str) -> LinkError:
    """The error for an original whose address only the running process knows."""
    return LinkError(
        "hook/indirect",
        f"`{reference.name}` of {reference.provider} is an indirect function, and {reference.dso} "
        "is to keep it",
        place=place,
        notes=("its address is not known before the program runs",),
        help=help,
    )


def _no_match(
    link: Link, rule: Rule, references: References, objects: Mapping[str, Dso]
) -> LinkError:
    """What came nearest to the rule."""
    callers = [d for d in _callers(link) if d is not objects[rule.object]]
    asking = [dso for dso in callers if is_called(dso, rule.callers)]
    if not asking:
        wanted = ", ".join(rule.callers)
        note = f"no object of the link is called `{wanted}`: {_near(wanted, map(str, callers))}"
    else:
        found = [one for dso in asking for one in references.of(dso, [rule.symbol])]
        if found:
            told = sorted({f"{r.name}@{r.version or 'no version'} of {r.provider}" for r in found})
            note = f"they ask for {', '.join(told[:5])}"
        else:
            names = {one.name for dso in asking for one in references.of(dso) if one.is_function}
            note = f"they do not ask for `{rule.symbol}`: {_near(rule.symbol, names)}"
    version = "" if rule.version is None else f"@{rule.version}"
    return LinkError(
        "hook/no-match",
        f"nothing is bound to `{rule.symbol}{version}` of `{rule.of}` as the rule says",
        place=rule.place,
        notes=(note,),
        help="`spidl explain PROG SYMBOL` shows who is bound to what",
    )


def _near(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(set(names)), cutoff=0.5)
    return f"there is {', '.join(near)}" if near else "there is nothing with a similar name"
