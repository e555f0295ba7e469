"""What a policy says about what the objects of a link do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from spidl.api import SHN, Link, LinkError, Place
from spidl.modules.authorise.conduct import Conduct
from spidl.modules.authorise.policy import SYMBOL, Policy, Table

_SHOWN = 10
_NAMES = 4
SEVERITY = ("authorise/unknown-object", "authorise/other-file", "authorise/resolver",
            "authorise/import", "authorise/interposition", "authorise/constructor")  # fmt: skip
"""The order in which they are told."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that the policy does not allow."""

    code: str
    object: str
    text: str
    """What the object does, as the rest of a sentence that begins with its name."""
    line: int
    """The policy's line where it would be allowed, 0 for none."""
    allow: str
    """What would allow it."""
    interface: str | None = None
    provider: str | None = None
    symbols: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.object} {self.text}"


def judge(policy: Policy, conducts: Iterable[Conduct]) -> list[Violation]:
    """All that the policy does not allow, by object and kind."""
    found = [violation for conduct in conducts for violation in _of(policy, conduct)]
    return sorted(found, key=lambda v: SEVERITY.index(v.code))


def _of(policy: Policy, conduct: Conduct) -> Iterator[Violation]:
    table = policy.table(conduct.names, conduct.paths)
    if table is None:
        yield Violation(
            "authorise/unknown-object", conduct.name, f"is not in the policy ({conduct.because})",
            0, f'[objects."{conduct.name}"]',
        )  # fmt: skip
        return
    yield from _identity(policy, table, conduct)
    if conduct.resolvers and not table.resolvers:
        few = _some(conduct.resolvers)
        yield Violation(
            "authorise/resolver", conduct.name,
            f"brings IFUNC resolvers, which run while it is loaded: {few}",
            policy.line(table.key, "resolvers"), "resolvers = true", symbols=conduct.resolvers,
        )  # fmt: skip
    if conduct.constructors and not table.constructors:
        yield Violation(
            "authorise/constructor", conduct.name,
            f"brings {_count(conduct.constructors, 'constructor')}",
            policy.line(table.key, "constructors"), "constructors = true",
        )  # fmt: skip
    for code, did, what, granted, done in (
        ("authorise/import", "imports", "imports", table.imports, conduct.imports),
        ("authorise/interposition", "is taken instead of", "interposes", table.interposes,
         conduct.interposes),
    ):  # fmt: skip
        for provider, names in sorted(done.items()):
            yield from _grants(policy, conduct, table, provider, names, granted, code, did, what)


def _identity(policy: Policy, table: Table, conduct: Conduct) -> Iterator[Violation]:
    pins = (("path", table.path, conduct.paths), ("build_id", table.build_id, (conduct.build_id,)))
    for key, wanted, real in pins:
        if wanted is not None and wanted not in real:
            yield Violation(
                "authorise/other-file", conduct.name,
                f"is another file: its {key} is {real[0] or 'missing'}, not {wanted}",
                policy.line(table.key, key), f'{key} = "{real[0]}"',
            )  # fmt: skip


def _grants(
    policy: Policy, conduct: Conduct, table: Table, provider: str, names: set[str],
    granted: Mapping[str, Sequence[str]], code: str, did: str, what: str,
) -> Iterator[Violation]:  # fmt: skip
    """What is not allowed of the imports from, or interpositions on, one provider, by interface."""
    denied: dict[str | None, list[str]] = {}
    for name in policy.denied(granted, provider, sorted(names)):
        denied.setdefault(policy.interface(provider, name), []).append(name)
    line = policy.line(table.key, f"{what}.{provider}", what)
    for interface, symbols in sorted(denied.items(), key=lambda item: item[0] or ""):
        few = _some(tuple(f"`{name}`" for name in symbols))
        group = f" ({interface})" if interface else ""
        items = [interface] if interface else [f"{SYMBOL}{name}" for name in symbols[:_NAMES]]
        listed = ", ".join(f'"{item}"' for item in items)
        yield Violation(
            code, conduct.name, f"{did} {few} of {provider}{group}", line,
            f'{what}."{provider}" = [{listed}]', interface, provider, tuple(symbols),
        )  # fmt: skip


def refuse(policy: Policy, program: str, violations: Sequence[Violation]) -> LinkError:
    """The error for what is not allowed: the first in words, some more as notes."""
    first = violations[0]
    table = policy.table((first.object,), ())
    key = table.key if table is not None else first.object
    notes = [f"{_place(v)}{v}" for v in violations[1:_SHOWN]]
    if len(violations) > _SHOWN:
        notes.append(f"and {len(violations) - _SHOWN} more: spidl policy check {program}")
    place = policy.place(key)
    if first.line:
        place = Place(policy.file, f"line {first.line}")
    return LinkError(
        first.code, str(first), place=place, notes=tuple(notes),
        help=f"if that is meant, allow it: {first.allow}",
    )  # fmt: skip


def unmatched(policy: Policy, link: Link) -> list[str]:
    """What the policy says in vain: ``symbol:`` items of providers in the link that export no such
    symbol."""
    found = []
    exports: dict[int, list[str]] = {}
    for table in policy.tables:
        for what, grants in (("imports", table.imports), ("interposes", table.interposes)):
            for provider, items in grants.items():
                dso = link.known(provider)
                if dso is None:
                    continue
                for item in items:
                    if not item.startswith(SYMBOL):
                        continue
                    if dso.number not in exports:
                        rows = np.flatnonzero(dso.file.symbols["st_shndx"] != SHN.UNDEF)
                        exports[dso.number] = [dso.file.symbol_name(int(i)) for i in rows]
                    name = item.removeprefix(SYMBOL)
                    if not any(fnmatchcase(one, name) for one in exports[dso.number]):
                        line = policy.line(table.key, f"{what}.{provider}", what)
                        found.append(f"line {line}: {provider} exports no `{name}`")
    return found


def _place(violation: Violation) -> str:
    return f"line {violation.line}: " if violation.line else ""


def _some(names: Sequence[str]) -> str:
    few = ", ".join(names[:_NAMES])
    return few if len(names) <= _NAMES else f"{few} and {len(names) - _NAMES} more"


def _count(number: int, what: str) -> str:
    return f"a {what}" if number == 1 else f"{number} {what}s"
