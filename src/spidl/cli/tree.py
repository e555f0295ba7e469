"""``spidl tree``: the libraries a program needs, where each was found and why."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

from spidl.cli.draw import draw, write_drawing
from spidl.cli.reading import request_of
from spidl.cli.tables import BOLD, DIM, RED, libraries, paint, plain, write, write_json
from spidl.diagnostics import LinkError, Place
from spidl.elf import ElfFile
from spidl.link.dso import Dso, MemoryObject, Need
from spidl.link.link import Link
from spidl.link.module import Module
from spidl.link.phases import COLLECT
from spidl.link.pipeline import Pipeline
from spidl.session import make_link

_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Broken:
    """A need that cannot be met: nothing is found, or what is found cannot be loaded."""

    name: str
    path: str | None
    because: str
    found: str
    code: str
    message: str
    position: int
    """How many needs of the same object came before it."""


class _Survey(Module):
    """Takes over collect from whoever has it, to go on behind a library that is missing."""

    name = "spidl-tree"

    def __init__(self) -> None:
        self.broken: dict[int, list[Broken]] = {}
        """By the number of the asking object."""

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        collect = pipeline.main(COLLECT)
        if collect is None:
            return

        def survey(dso: Dso, link: Link) -> Iterator[Need | MemoryObject]:
            """What the main pass gives, without what cannot be loaded."""
            for position, need in enumerate(collect(dso, link)):
                broken = _check(need, dso, link, position) if isinstance(need, Need) else None
                if broken is None:
                    yield need
                else:
                    self.broken.setdefault(dso.number, []).append(broken)

        pipeline.strong(COLLECT, survey)


def _check(need: Need, dso: Dso, link: Link, position: int) -> Broken | None:
    if need.name in (need.namespace or dso.namespace).names or link.known(need.name, dso):
        return None
    if need.path is None:
        return Broken(need.name, None, need.because, need.found, "collect/not-found", "not found",
                      position)  # fmt: skip
    try:
        ElfFile.open(need.path)
    except LinkError as error:
        return Broken(need.name, need.path, need.because, need.found, error.code,
                      error.diagnostic.message, position)  # fmt: skip
    return None


@dataclass(slots=True)
class Node:
    """One object in the tree, under the one that brought it into the link."""

    name: str
    path: str | None
    because: str
    found: str
    error: str | None = None
    also: list[str] = field(default_factory=list)
    """Names of what it needs too, shown under another object."""
    children: list[Node] = field(default_factory=list)

    @property
    def why(self) -> str:
        """How it was found, and who asked if that is not DT_NEEDED."""
        asked = "" if self.because in ("DT_NEEDED", "the program") else self.because
        return ", ".join(part for part in (asked, self.found) if part)


def tree(options: argparse.Namespace) -> int:
    """Print, or draw, what the program needs; with a library missing, that and then the error.

    Raises `LinkError`; where part of the tree is known, it is printed first.
    """
    if options.output is not None and not options.output.endswith(".svg"):
        raise LinkError(
            "cli/not-svg", f"`{plain(options.output)}` does not end in .svg",
            place=Place("command line", "-o"), help="tree draws SVG: give it a name like libs.svg",
        )  # fmt: skip
    request = request_of(options)
    link = make_link(request)
    survey = _Survey()
    link.modules = (*link.modules, survey)
    failure: LinkError | None = None
    try:
        link.collect()
    except LinkError as error:
        if not link.objects:
            raise
        failure = error
    if survey.broken:
        failure = _failure_of(make_link(request)) or failure
    root = _node(link.root, survey)
    if options.output is not None:
        write_drawing(options.output, draw(root, f"Libraries of {link.root.path}"))
    if options.json:
        write_json(_json(link, survey, failure))
    elif options.output is not None:
        count = libraries(len(link.objects) - 1)
        write([f"{plain(options.output)}: {plain(link.root.name)} with {count}"])
    else:
        write(_text(root))
    if failure is None:
        return 0
    # Not raised: with --json that would print a second document.
    print(failure.diagnostic, file=sys.stderr)
    return 2


def _failure_of(link: Link) -> LinkError | None:
    """The error of a link without the survey: what run and build would say."""
    try:
        link.collect()
    except LinkError as error:
        return error
    return None


def _node(dso: Dso, survey: _Survey) -> Node:
    """The tree from the program on: every object once, under its loader."""
    nodes: dict[int, Node] = {}
    waiting = [dso]
    while waiting:
        at = waiting.pop(0)
        node = nodes.setdefault(at.number, _plain_node(at))
        first = 0  # what weak passes added comes before the object's own needs
        for other in at.dependencies:
            if other.loader is at and other.number not in nodes:
                nodes[other.number] = _plain_node(other)
                node.children.append(nodes[other.number])
                waiting.append(other)
                first += other.made_by is not None
            else:
                node.also.append(other.label)
        for broken in survey.broken.get(at.number, ()):
            before = {d.label for d in at.dependencies[: first + broken.position]}
            before |= {b.name for b in survey.broken[at.number] if b.position < broken.position}
            place = sum(child.name in before for child in node.children)
            node.children.insert(place, Node(broken.name, broken.path, broken.because,
                                             broken.found, broken.message))  # fmt: skip
    return nodes[dso.number]


def _plain_node(dso: Dso) -> Node:
    return Node(dso.label, dso.path, dso.because, dso.found)


def _text(root: Node) -> list[str]:
    lines: list[str] = []

    def add(node: Node, lead: str, below: str) -> None:
        lines.append(lead + _line(node))
        if node.also:
            prefix = below + ("│   " if node.children else "    ")
            wrapped = textwrap.wrap("also " + ", ".join(map(plain, node.also)),
                                    max(40, _WIDTH - len(prefix)))  # fmt: skip
            lines.extend(prefix + paint(line, DIM) for line in wrapped)
        for i, child in enumerate(node.children):
            last = i == len(node.children) - 1
            add(child, below + ("└── " if last else "├── "), below + ("    " if last else "│   "))

    add(root, "", "")
    return lines


def _line(node: Node) -> str:
    name = paint(plain(node.name), RED if node.error else BOLD)
    if node.error is not None:
        where = "" if node.path is None else f"  {plain(node.path)}"
        return f"{name}{where}  {paint(plain(node.error), RED)}  ({plain(node.why)})"
    path = "" if node.path is None else f"  {plain(node.path)}"
    return f"{name}{path}" + (paint(f"  ({plain(node.why)})", DIM) if node.why else "")


def _json(link: Link, survey: _Survey, failure: LinkError | None) -> dict[str, object]:
    return {
        "program": link.root.path,
        "objects": [
            {
                "name": dso.name,
                "path": dso.path,
                "because": dso.because,
                "found": dso.found or None,
                "loader": None if dso.loader is None else dso.loader.path,
                "needs": [other.path for other in dso.dependencies],
                "missing": [
                    {"name": b.name, "path": b.path, "because": b.because, "found": b.found,
                     "code": b.code}
                    for b in survey.broken.get(dso.number, ())
                ],
            }
            for dso in link.objects
        ],
        "absent": [os.fspath(path) for path in link.absent],
        "error": None if failure is None else failure.diagnostic.to_json(),
    }  # fmt: skip
