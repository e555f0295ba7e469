"""Charts as inline SVG, drawn by hand.

Text stays text, colours are the page's own (they follow light and dark), and a page of charts is
some kilobytes: a plotting library would bring its fonts as outlines and one fixed theme.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH = 860
_ROW = 20
_LABEL = 230
_RIGHT = 110


def safe(text: str) -> str:
    """Text out of files as HTML: escaped, and nothing in it that cannot be seen."""
    shown = text if text.isprintable() else "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )  # fmt: skip
    return html.escape(shown)


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of `bars`: ``more`` is a second length behind the first."""

    label: str
    value: float
    text: str
    more: float = 0


def _ticks(most: float) -> list[int]:
    """Round numbers from 0 to at least ``most``, five or so."""
    step = 1
    for at in range(60):
        step = (1, 2, 5)[at % 3] * 10 ** (at // 3)
        if most <= 5 * step:
            break
    return [step * at for at in range(int(-(-most // step)) + 1)] or [0]


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{safe(title)}">'
        f"{''.join(parts)}</svg>"
    )


def bars(rows: Sequence[Bar], title: str, axis: str) -> str:
    """Horizontal bars from zero, in the order given, each with its number."""
    ticks = _ticks(max((row.value + row.more for row in rows), default=1) or 1)
    room = _WIDTH - _LABEL - _RIGHT
    scale = room / max(ticks[-1], 1)
    bottom = len(rows) * _ROW + 4
    parts = []
    for tick in ticks:
        x = _LABEL + tick * scale
        parts += [
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{bottom}"/>',
            f'<text class="tick" x="{x:.1f}" y="{bottom + 14}">{tick:,}</text>',
        ]
    for at, row in enumerate(rows):
        y = at * _ROW + 4
        end = _LABEL + (row.value + row.more) * scale
        name = row.label if len(row.label) <= 34 else f"{row.label[:33]}…"
        parts.append(
            f'<text class="label" x="{_LABEL - 8}" y="{y + 11}">{safe(name)}</text>'
            f'<rect class="bar" x="{_LABEL}" y="{y}" width="{row.value * scale:.1f}" height="14">'
            f"<title>{safe(row.label)}: {safe(row.text)}</title></rect>"
        )
        if row.more:
            parts.append(f'<rect class="more" x="{_LABEL + row.value * scale:.1f}" y="{y}" '
                         f'width="{row.more * scale:.1f}" height="14"/>')  # fmt: skip
        parts.append(f'<text class="value" x="{end + 6:.1f}" y="{y + 11}">{safe(row.text)}</text>')
    parts.append(
        f'<text class="axis" x="{_LABEL + room / 2}" y="{bottom + 32}">{safe(axis)}</text>'
    )
    return _svg(bottom + 40, title, parts)


def columns(
    counts: Sequence[int], width: int, title: str, across: str, up: str,
    marks: Sequence[tuple[float, str]] = (),
) -> str:  # fmt: skip
    """A histogram: ``counts`` of bins ``width`` wide from 0 on; ``marks`` are (value, text)."""
    top, left, high = 26, 60, 200
    ticks = _ticks(max(counts, default=1))
    scale = high / max(ticks[-1], 1)
    room = _WIDTH - left - 20
    step = room / max(len(counts), 1)
    parts = []
    for tick in ticks:
        y = top + high - tick * scale
        right = left + room
        parts += [
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<text class="label" x="{left - 8}" y="{y + 4:.1f}">{tick:,}</text>',
        ]
    every = max(1, len(counts) // 12)
    for at, count in enumerate(counts):
        x, tall = left + at * step, count * scale
        if count:
            parts.append(
                f'<rect class="bar" x="{x + 1:.1f}" y="{top + high - tall:.1f}" '
                f'width="{max(step - 2, 1):.1f}" height="{tall:.1f}">'
                f"<title>{at * width} to {at * width + width - 1}: {count:,}</title></rect>"
            )
        if at % every == 0:
            parts.append(
                f'<text class="tick" x="{x:.1f}" y="{top + high + 16}">{at * width}</text>'
            )
    for value, text in marks:
        x = left + value / width * step
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 8}" '
                     f'y2="{top + high}"/><text class="value" x="{x + 5:.1f}" y="{top - 10}">'
                     f"{safe(text)}</text>")  # fmt: skip
    middle = top + high / 2
    parts.append(
        f'<text class="axis" x="{left + room / 2}" y="{top + high + 36}">{safe(across)}</text>'
        f'<text class="axis" transform="translate(14 {middle}) rotate(-90)">{safe(up)}</text>'
    )
    return _svg(top + high + 44, title, parts)
