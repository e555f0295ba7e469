"""Authorise: objects are linked only with what a policy lets them import, bring and open.

SPIN's linker asks at link time whether a client may have an interface, so that a call costs nothing
(Sirer et al. 1995, section 2).  The bindings that relocate has made are compared with a policy
before any code of the program's runs; libraries that are opened later go through a gate that knows
what the policy allows.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from spidl.api import (
    POST_RELOCATE,
    START,
    Action,
    Dso,
    Fact,
    Gate,
    Link,
    LinkError,
    Module,
    OpenedFile,
    Opening,
    Origin,
    Pipeline,
    Place,
)
from spidl.modules.authorise.conduct import Conduct, conducts
from spidl.modules.authorise.judge import Violation, judge, refuse
from spidl.modules.authorise.opened import Opened, Openings
from spidl.modules.authorise.policy import Policy, read_policy

__all__ = ["FINDINGS", "Authorise", "Findings", "Violation"]


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What was found about a link under a policy."""

    policy: Policy
    conducts: list[Conduct]
    openings: Openings
    violations: list[Violation]


FINDINGS: Fact[Findings] = Fact("authorise-findings")
"""Told in post-relocate."""


class Authorise(Module):
    """Objects are linked only with what a policy lets them import, bring and open."""

    after = ("sysv",)
    policy = True
    judges = True

    file: str
    """The policy's absolute path."""

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if not dso.is_root:
            return
        if not os.path.isabs(self.file):
            raise LinkError(
                "config/wrong-value", f"`{self.file}` is no value of modules.authorise.file",
                place=Place("modules.authorise"), help="it must be an absolute path",
            )  # fmt: skip
        main = pipeline.main(START)

        def start(dso: Dso, link: Link) -> list[Action]:
            """The gate for what is opened, beside whatever else starts the program."""
            actions = [] if main is None else list(main(dso, link))
            return [gate(link, link.facts[FINDINGS].openings), *actions]

        pipeline.weak(POST_RELOCATE, self.authorise)
        pipeline.strong(START, start)

    def authorise(self, link: Link) -> None:
        """Compare what the objects do with the policy.  Raises `LinkError` ``authorise/...``."""
        findings = find(link, read_policy(self.file, link.read_input(self.file)))
        link.facts[FINDINGS] = findings
        if findings.violations:
            raise refuse(findings.policy, link.root.name, findings.violations)


def find(link: Link, policy: Policy) -> Findings:
    """What the objects of a link do whose symbols are bound, and what the policy says of it."""
    openings = Openings(link, policy)
    done = [*conducts(link), *openings.conducts()]
    link.files.keep(opened.dso.file for opened in openings.found.values())
    return Findings(policy, done, openings, judge(policy, done))


def gate(link: Link, openings: Openings) -> Gate:
    """The action that boot keeps for what is opened at run time (boot/open.c)."""
    origins = tuple(
        Origin(dso.start, dso.end, dso.name.encode(errors="surrogateescape"))
        for dso in link.objects
    )
    return Gate(origins, tuple(_opening(link, one) for one in openings.found.values()))


def _opening(link: Link, opened: Opened) -> Opening:
    files = [
        OpenedFile(_bytes(dso.path), dso.identity, dso.number < len(link.objects))
        for dso in opened.needs
        if dso.identity is not None
    ]
    absent = [OpenedFile(_bytes(path), None) for path in opened.absent]
    names = tuple(_bytes(name) for name in sorted(opened.names))
    return Opening(names, (*files, *absent), tuple(sorted(opened.openers)))


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
