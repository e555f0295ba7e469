"""Seccomp: a program may make the system calls that its libraries can reach, and no others.

What each library can ask of the kernel is known from the library alone (spidl.analyse); the link
knows who is bound to whom.  Together they give the filter that the program starts under (the
paper, section 4.4).
"""

from __future__ import annotations

import errno as errors
from dataclasses import field

from spidl.api import (
    POST_RELOCATE,
    START,
    Action,
    Call,
    CallStore,
    Dso,
    Fact,
    Filter,
    Link,
    LinkError,
    Module,
    Origin,
    Pipeline,
    Place,
    Protection,
    Report,
    name_of,
    number_of,
)
from spidl.modules.seccomp.bpf import (
    ERRNO,
    KILL_PROCESS,
    LOG,
    RT_SIGACTION,
    TRAP,
    Rules,
    assemble,
)
from spidl.modules.seccomp.decide import ALWAYS, VDSO, Decision, Summarise, Wishes, decide

__all__ = ["DECISION", "SUMMARISE", "Decision", "Seccomp"]

DECISION: Fact[Decision] = Fact("seccomp-decision")
"""What was decided, from post-relocate on."""
SUMMARISE: Fact[Summarise] = Fact("seccomp-summaries")
"""How summaries are made, for a module that has others than the analyser's."""

_TSYNC = 1
_WRITE, _WRITEV, _GETRANDOM = 1, 20, 318
_READING = frozenset({0, 3, 257})
"""read, close, openat."""
_MAPS = b"/proc/self/maps"
"""An origin without code has this name if boot's handler may read it (boot/report.c)."""
_ACTIONS = ("kill", "errno", "log", "trap")


class Seccomp(Module):
    """A program may make the system calls that its libraries can reach, and no others."""

    after = ("sysv",)
    policy = True

    action: str = "kill"
    errno: str = "EPERM"
    filter_from: str = "entry"
    unknown: str = "deny"
    open_ended: str = "exports"
    exec: str | list[str] = "allow"
    plugins: dict[str, list[str]] | str = field(default_factory=dict)
    assume: dict[str, list[str]] | str = field(default_factory=dict)
    allow: list[str] = field(default_factory=list)
    forbid: list[str] = field(default_factory=list)
    strict: bool = False
    origins: bool = False
    report: bool = True

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if not dso.is_root:
            return
        self._wishes()  # what is wrong with them is said before anything is done
        main = pipeline.main(START)

        def start(dso: Dso, link: Link) -> list[Action]:
            """The filter before any code of the program's, as far as boot runs it."""
            actions = [] if main is None else list(main(dso, link))
            runs = [at for at, a in enumerate(actions) if isinstance(a, Call | CallStore)]
            first = runs[0] if runs else len(actions)
            return actions[:first] + self._filter(link) + actions[first:]

        pipeline.weak(POST_RELOCATE, self.decide)
        pipeline.strong(START, start)

    def decide(self, link: Link) -> None:
        """Tell the decision, once all symbols are bound."""
        others = [module for module in link.modules if module is not self]
        link.facts[DECISION] = decide(link, self._wishes(), others, _summaries(link))

    # -- settings --------------------------------------------------------------------------------

    def _wishes(self) -> Wishes:
        """The settings, checked.  Raises `LinkError` ``config/wrong-value``."""
        self._one_of("action", self.action, _ACTIONS)
        self._one_of("filter_from", self.filter_from, ("entry", "start"))
        self._one_of("unknown", self.unknown, ("refuse", "deny", "log", "allow-all"))
        self._one_of("open_ended", self.open_ended, ("exports", "deny", "refuse"))
        if isinstance(self.exec, str):
            self._one_of("exec", self.exec, ("allow", "deny"))
        if self.errno not in errors.errorcode.values():
            raise _wrong("errno", self.errno, "the name of an error, such as EPERM")
        return Wishes(
            exec=self.exec if isinstance(self.exec, str) else tuple(self.exec),
            unknown=self.unknown,
            open_ended=self.open_ended,
            strict=self.strict,
            plugins=_table("plugins", self.plugins),
            assume={name: _numbers("assume", calls)
                    for name, calls in _table("assume", self.assume).items()},
            allow=_numbers("allow", self.allow),
            forbid=_numbers("forbid", self.forbid),
        )  # fmt: skip

    def _one_of(self, key: str, value: str, known: tuple[str, ...]) -> None:
        if value not in known:
            raise _wrong(key, value, f"one of: {', '.join(known)}")

    # -- the filter ------------------------------------------------------------------------------

    def _filter(self, link: Link) -> list[Action]:
        """Boot's actions."""
        decision = link.facts[DECISION]
        logs = self.action == "log" or (self.unknown == "log" and bool(decision.unknown))
        reports = self.action == "kill" and self.report and not logs
        deny = {
            "kill": TRAP if reports else KILL_PROCESS, "log": LOG, "trap": TRAP,
            "errno": ERRNO | getattr(errors, self.errno),
        }["log" if logs else self.action]  # fmt: skip
        writing = next((n for n in (_WRITEV, _WRITE) if n in decision.allowed), None)
        rules = Rules(
            allowed=decision.allowed,
            deny=deny,
            newest=decision.newest,
            foreign=LOG if logs else KILL_PROCESS,
            keeps_sigsys=reports and RT_SIGACTION in decision.allowed,
            origins=_makers(link, decision) if self.origins else (),
            anywhere=frozenset(
                ALWAYS.keys() - {15, 60, 231} | (VDSO.keys() | {_GETRANDOM}) & decision.allowed
            ),
            reports_with=writing if reports else None,
        )
        entry = link.root.bias + link.root.file.entry if self.filter_from == "start" else 0
        actions: list[Action] = [Filter(assemble(rules), _TSYNC if entry else 0, entry)]
        if reports:
            names = tuple(name_of(number).encode() for number in range(decision.newest + 1))
            code = _code(link)
            if not self.origins and decision.allowed >= _READING:
                code += (Origin(0, 0, _MAPS),)
            actions.insert(0, Report(code, names, writing or 0))
        return actions


def _summaries(link: Link) -> Summarise:
    given = link.facts.get(SUMMARISE, None)
    if given is not None:
        return given

    from spidl.api import summary_of  # what it imports is needed by real links only

    return summary_of


def _wrong(key: str, value: str, expected: str) -> LinkError:
    return LinkError(
        "config/wrong-value", f"`{value}` is no value of modules.seccomp.{key}",
        place=Place("modules.seccomp"), help=f"it must be {expected}",
    )  # fmt: skip


def _table(key: str, value: dict[str, list[str]] | str) -> dict[str, list[str]]:
    """A table, or the same as words of a command line: ``NAME=VALUE,VALUE NAME=VALUE``."""
    if isinstance(value, dict):
        return value
    found = {}
    for word in value.split():
        name, equals, values = word.partition("=")
        if not (name and equals and name[0] not in "{[\"'"):
            raise _wrong(key, value, f"a table, {key} = {{\"NAME\" = [\"VALUE\"]}}, or "
                                     "NAME=VALUE,VALUE")  # fmt: skip
        found[name] = [one for one in values.split(",") if one]
    return found


def _numbers(key: str, names: list[str]) -> frozenset[int]:
    found = set()
    for name in names:
        number = number_of(name)
        if number is None:
            raise _wrong(key, name, "names of system calls of x86-64, or syscall_N")
        found.add(number)
    return frozenset(found)


def _code(link: Link) -> tuple[Origin, ...]:
    """Each object's span, by its name."""
    return tuple(
        Origin(dso.start, dso.end, dso.name.encode(errors="surrogateescape"))
        for dso in link.objects
    )


def _makers(link: Link, decision: Decision) -> tuple[tuple[int, int], ...]:
    """Executable segments of the objects that make system calls at all, [start, end).

    Raises `LinkError` ``seccomp/opened-origin`` where something that is opened makes some: where
    that will be is not known.
    """
    members = decision.reach.members
    for at in range(len(link.objects), len(members)):
        if decision.reach.calls(at):
            raise LinkError(
                "seccomp/opened-origin",
                f"{members[at].name} makes system calls itself, and is opened at run time",
                place=Place(members[at].path),
                notes=(f"it is {members[at].because}",),
                help="origins = false, or link the program with it",
            )
    making = {link.objects[at].name for at in range(len(link.objects)) if decision.reach.calls(at)}
    return tuple(
        (m.start, m.end)
        for m in link.space.mappings
        if m.protection & Protection.EXEC and m.by.dso in making
    )
