"""``spidl policy``: write the policy that programs need, and what is not allowed by one."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from typing import Any

from spidl.cli.learned import learned, merge, policy_text
from spidl.cli.tables import BOLD, paint, plain, table, write, write_json
from spidl.diagnostics import LinkError, Place
from spidl.files import write_whole
from spidl.link.link import Link
from spidl.modules.authorise import Authorise, find
from spidl.modules.authorise.judge import Violation, unmatched
from spidl.modules.authorise.policy import Policy, read_policy
from spidl.session import Request, configured, find_program, make_link


def policy(options: argparse.Namespace) -> int:
    """Learn a policy, or check one: 1 where something is not allowed."""
    return _learn(options) if options.action == "learn" else _check(options)


def _request(options: argparse.Namespace, program: str) -> Request:
    return Request(
        find_program(program), tuple(options.extra), config=options.config,
        settings=tuple(options.settings),
    )  # fmt: skip


def _bound(request: Request) -> Link:
    """A link whose symbols are bound, under no policy.  Nothing of the program runs."""
    link = make_link(request)
    link.modules = tuple(m for m in link.modules if not isinstance(m, Authorise))
    link.collect()
    link.load()
    link.relocate()
    return link


# -- learn ---------------------------------------------------------------------------------------


def _learn(options: argparse.Namespace) -> int:
    requests = [_request(options, program) for program in options.programs]
    found = merge([learned(_bound(request), _declared(options)) for request in requests])
    lines = list(policy_text(found, pin=options.pin, symbols=options.symbols))
    if options.output is None:
        write(lines)
        return 0
    try:
        write_whole(options.output, "".join(f"{line}\n" for line in lines).encode(), 0o644)
    except OSError as error:
        raise LinkError(
            "cli/cannot-write", f"cannot write the policy: {error.strerror}",
            place=Place(options.output), help="check the folder and its permissions",
        ) from None  # fmt: skip
    return 0


def _declared(options: argparse.Namespace) -> list[tuple[str, str]]:
    """(object, item of ``opens``) of the --opens options."""
    found = []
    for option in options.opens:
        name, equals, item = option.partition("=")
        if not (name and equals and item):
            raise LinkError(
                "cli/usage", f"--opens {option} is not OBJECT=NAME",
                place=Place("command line"), help="for instance --opens 'viewer=/usr/lib/v/*.so'",
            )  # fmt: skip
        found.append((name, item))
    return found


# -- check ---------------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    requests = [_request(options, program) for program in options.programs]
    chosen = _policy_of(options, requests[0])
    told = []
    for request in requests:
        link = _bound(request)
        findings = find(link, chosen)
        told.append((link.root.path, findings.violations, unmatched(chosen, link)))
    if options.json:
        write_json(_as_json(chosen, told))
    else:
        write(_as_text(chosen, told))
    return 1 if any(violations for _, violations, _ in told) else 0


def _policy_of(options: argparse.Namespace, request: Request) -> Policy:
    """The policy of --policy, else of the settings."""
    file = options.policy or configured(request).settings.get("authorise", {}).get("file")
    if not isinstance(file, str):
        raise LinkError(
            "cli/usage", "no policy is given", place=Place("command line"),
            help="give --policy FILE, or [modules.authorise] file in spidl.toml",
        )  # fmt: skip
    try:
        with open(file, "rb") as opened:
            content = opened.read()
    except OSError:
        return read_policy(file, None)
    return read_policy(os.path.abspath(file), content)


_Told = Sequence[tuple[str, list[Violation], list[str]]]


def _as_json(chosen: Policy, told: _Told) -> dict[str, Any]:
    return {
        "policy": chosen.file,
        "programs": [
            {
                "program": program,
                "allowed": not violations,
                "violations": [
                    {"code": v.code, "object": v.object, "text": v.text, "line": v.line,
                     "allow": v.allow, "interface": v.interface, "provider": v.provider,
                     "symbols": list(v.symbols)}
                    for v in violations
                ],
                "warnings": warnings,
            }
            for program, violations, warnings in told
        ],
    }  # fmt: skip


def _as_text(chosen: Policy, told: _Told) -> Iterator[str]:
    for number, (program, violations, warnings) in enumerate(told):
        if number:
            yield ""
        if not violations:
            yield plain(f"{program}: all that it does is allowed by {chosen.file}")
        else:
            head = f"{program}: {chosen.file} does not allow all that it does"
            yield paint(plain(head), BOLD)
            for name in dict.fromkeys(v.object for v in violations):
                yield plain(f"  {name} {_sentence([v for v in violations if v.object == name])}")
            yield ""
            rows = [(v.object, v.text, str(v.line or ""), v.allow) for v in violations]
            yield from table(("object", "does", "line", "would be allowed by"), rows, "line")
        for warning in warnings:
            yield plain(f"warning: {warning}")


def _sentence(violations: Sequence[Violation]) -> str:
    """What is new of one object in a few words."""
    imports = [v for v in violations if v.code == "authorise/import"]
    groups = sorted({v.interface or f"symbols of {v.provider}" for v in imports})
    parts = [f"newly imports {_and(groups)}"] if groups else []
    for code, words in (
        ("authorise/resolver", "brings IFUNC resolvers"),
        ("authorise/constructor", "brings constructors"),
        ("authorise/unknown-object", "is not in the policy"),
        ("authorise/other-file", "is another file"),
    ):
        if any(v.code == code for v in violations):
            parts.append(words)
    victims = [v.provider or "" for v in violations if v.code == "authorise/interposition"]
    if victims:
        parts.append(f"is taken instead of {_and(list(dict.fromkeys(victims)))}")
    return _and(parts)


def _and(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
