"""A tree as SVG: one row an object, connectors at the left, all text in the file.

Rows keep 200 libraries readable, where a graph of them would be a ball of lines.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from spidl.cli.tables import plain
from spidl.diagnostics import LinkError, Place
from spidl.files import write_whole

if TYPE_CHECKING:
    from spidl.cli.tree import Node

_ROW, _STEP, _LEFT, _TOP = 24, 22, 16, 52
_CHARACTER = 7.25
"""Width in pixels that a 12 pixel monospaced character takes, at most."""
_STYLE = """
text { font: 12px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #1f2328 }
.title { font-size: 15px; font-weight: bold } .name { font-weight: bold }
.dim { fill: #656d76 } .bad { fill: #b3261e }
path { fill: none; stroke: #9aa4ae; shape-rendering: crispEdges }
circle { fill: #2f6fbf } circle.bad { fill: #b3261e } .band { fill: #f4f6f8 }
"""


def _rows(node: Node, depth: int = 0, parent: int = -1) -> Iterator[tuple[Node, int, int]]:
    """(node, depth, row of its parent), from the top."""
    counter = iter(range(1 << 30))

    def walk(node: Node, depth: int, parent: int) -> Iterator[tuple[Node, int, int]]:
        own = next(counter)
        yield node, depth, parent
        for child in node.children:
            yield from walk(child, depth + 1, own)

    yield from walk(node, depth, parent)


def draw(root: Node, title: str) -> str:
    """The SVG document of a tree."""
    rows = list(_rows(root))
    names = max(_LEFT + depth * _STEP + 14 + _wide(node.name) for node, depth, _ in rows) + 24
    paths = names + max(_wide(node.error or node.path or "") for node, _, _ in rows) + 24
    width = paths + max(_wide(_note(node)) for node, _, _ in rows) + _LEFT
    width = max(width, _LEFT * 2 + _wide(title) * 1.3)
    height = _TOP + len(rows) * _ROW + _LEFT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" role="img">',
        f"<title>{_text(title)}</title>",
        f"<style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text class="title" x="{_LEFT}" y="30">{_text(title)}</text>',
    ]
    parts += [
        f'<rect class="band" y="{_TOP + i * _ROW}" width="100%" height="{_ROW}"/>'
        for i in range(1, len(rows), 2)
    ]
    for i, (_, depth, parent) in enumerate(rows):
        y = _TOP + i * _ROW
        x = _LEFT + depth * _STEP
        if parent >= 0:
            above = _TOP + parent * _ROW + _ROW // 2 + 5
            parts.append(f'<path d="M{x - _STEP + 4} {above}V{y + _ROW // 2}H{x}"/>')
    for i, (node, depth, _) in enumerate(rows):
        y = _TOP + i * _ROW
        x = _LEFT + depth * _STEP
        bad = " bad" if node.error else ""
        line = y + 16
        parts += [
            f'<circle class="node{bad}" cx="{x + 4}" cy="{y + _ROW // 2}" r="4"/>',
            f'<text class="name{bad}" x="{x + 14}" y="{line}">{_text(node.name)}</text>',
            f'<text class="path{bad}" x="{names:.0f}" y="{line}">'
            f"{_text(node.error or node.path or '')}</text>",
            f'<text class="dim" x="{paths:.0f}" y="{line}">{_text(_note(node))}'
            + (f"<title>{_text('also ' + ', '.join(node.also))}</title>" if node.also else "")
            + "</text>",
        ]
    return "\n".join([*parts, "</svg>", ""])


def _note(node: Node) -> str:
    """Why it was found there, and how many it needs that are drawn elsewhere."""
    also = f"+{len(node.also)} drawn elsewhere" if node.also else ""
    return ", ".join(part for part in (node.why, also) if part)


def _wide(text: str) -> float:
    return len(plain(text)) * _CHARACTER


def _text(text: str) -> str:
    return escape(plain(text), {'"': "&quot;"})


def write_drawing(path: str, text: str) -> None:
    """Write a text file whole or not at all.  Raises `LinkError` ``cli/cannot-write``."""
    content = text.encode()
    path = os.path.realpath(path)
    try:
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "wb") as device:  # /dev/stdout, a pipe: not to be replaced
                device.write(content)
            return
        mask = os.umask(0)
        os.umask(mask)
        write_whole(path, content, 0o666 & ~mask)
    except OSError as error:
        raise LinkError(
            "cli/cannot-write",
            f"cannot write the drawing: {error.strerror}",
            place=Place(path),
            help="give a path in a folder that you may write to and that has room",
        ) from None
