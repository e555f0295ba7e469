"""The charts: SVG without a background, in tones that read on white and on black."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.figures import (
    COLD,
    COPIED,
    ENABLED,
    LAZY,
    NOW,
    SHARED,
    UNCHECKED,
    Figures,
    Link,
    Spread,
    Start,
)
from benchmarks.words import savings

_INK = "#7d8590"
_NAMED = 20_000
"""Relocations from which on the chart of links names a program."""
_COLOURS = {
    LAZY: "#7d8590", NOW: "#a5783c", COLD: "#c4477f", ENABLED: "#e3742f", SHARED: "#2f81f7",
    COPIED: "#2da44e", UNCHECKED: "#8fd19e",
}  # fmt: skip
_STYLE: Any = {  # the stubs name every parameter in the key's type
    "svg.fonttype": "none",
    "svg.hashsalt": "spidl",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlesize": 10,
    "axes.titlecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "grid.color": _INK,
    "grid.alpha": 0.25,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.transparent": True,
}


def draw_all(figures: Figures, folder: Path) -> None:
    """Write every chart into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    charts = {
        "starts": _starts, "memory": _memory, "validation": _validation, "links": _links,
        "break-even": _break_even, "work": _work,
    }  # fmt: skip
    for name, chart in charts.items():
        with matplotlib.rc_context(_STYLE):
            figure = chart(figures)
            # Without a date the same figures give the same file.
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            plt.close(figure)


def label(start: Start) -> str:
    return f"{start['program']} ({start['libraries']})"


def _whiskers(spread: Spread) -> list[list[float]]:
    low, median, high = spread["low"], spread["median"], spread["high"]
    return [[max(0.0, median - low)], [max(0.0, high - median)]]


def _logarithmic(axes: Axes) -> None:
    """A logarithmic x axis that says 1, 10, 100,000 instead of powers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter("")


def _starts(figures: Figures) -> Figure:
    starts = figures["starts"]
    figure, axes = plt.subplots(figsize=(8, 0.5 + 0.42 * len(starts)), layout="constrained")
    markers = {LAZY: "o", NOW: "x", COLD: "D", ENABLED: "s", SHARED: "o", COPIED: "^"}
    for way, marker in markers.items():
        points = [
            (start["ways"][way]["milliseconds"]["median"], row)
            for row, start in enumerate(starts)
            if way in start["ways"]
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True), marker, color=_COLOURS[way], label=way, markersize=6,
                markerfacecolor="none" if way == COLD else _COLOURS[way],
            )  # fmt: skip
    axes.set_yticks(range(len(starts)), [label(start) for start in starts])
    axes.invert_yaxis()
    _logarithmic(axes)
    axes.set_xlabel("start until exit, ms (median, logarithmic); in brackets: libraries")
    axes.grid(axis="both")
    figure.legend(loc="outside upper center", ncols=6, fontsize=8)
    return figure


def _memory(figures: Figures) -> Figure:
    memory = figures["memory"]
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.6 * len(memory)), layout="constrained")
    for row, processes in enumerate(memory.values()):
        whole = (processes[LAZY]["private"] + processes[LAZY]["shared"]) / 100
        for i, way in enumerate((LAZY, SHARED, COPIED)):
            at = row + 0.26 * (i - 1)
            private, shared = (processes[way][kind] / whole for kind in ("private", "shared"))
            colour = _COLOURS[way]
            axes.barh(at, private, 0.24, color=colour, label=way if row == 0 else None)
            axes.barh(at, shared, 0.24, left=private, color="none", edgecolor=colour, hatch="////")
    axes.set_yticks(range(len(memory)), list(memory))
    axes.invert_yaxis()
    axes.set_xlabel("resident memory, % of ld.so's: private (full), shared (hatched)")
    axes.grid(axis="x")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure


def _validation(figures: Figures) -> Figure:
    rows = figures["validation"]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for way in (LAZY, SHARED, COPIED, UNCHECKED):
        axes.errorbar(
            [row["libraries"] for row in rows],
            [row["ways"][way]["milliseconds"]["median"] for row in rows],
            yerr=[
                [_whiskers(row["ways"][way]["milliseconds"])[side][0] for row in rows]
                for side in (0, 1)
            ],
            marker="o", markersize=4, capsize=2, color=_COLOURS[way], label=way,
            linestyle="--" if way == UNCHECKED else "-",
        )  # fmt: skip
    axes.set_xlabel("tiny libraries that the program needs")
    axes.set_ylabel("start until exit, ms")
    axes.set_ylim(bottom=0)
    axes.grid()
    axes.legend(fontsize=8)
    return figure


def _links(figures: Figures) -> Figure:
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(9, 3.6), layout="constrained", sharey=True
    )
    _seconds(left, figures["by_symbols"], "symbols", "symbols, generated")
    _seconds(middle, figures["by_relocations"], "relocations", "relocations, generated")
    links = figures["links"]
    for kind, filled in (("cold", True), ("warm", False)):
        right.plot(
            [link["relocations"] for link in links],
            [_median(link, kind) for link in links],
            "o", color=_COLOURS[SHARED], label=kind,
            markerfacecolor=_COLOURS[SHARED] if filled else "none",
        )  # fmt: skip
    for link in links:
        if link["relocations"] < _NAMED:
            continue  # they lie close together, where Python's own start is most of the time
        right.annotate(
            link["program"], (link["relocations"], _median(link, "cold")), fontsize=7,
            xytext=(3, 3), textcoords="offset points",
        )  # fmt: skip
    _logarithmic(right)
    right.set_xlabel("relocations, programs of the machine")
    right.grid()
    left.set_ylabel("seconds of spidl build")
    left.set_ylim(bottom=0)
    left.legend(fontsize=8)
    return figure


def _median(link: Link, kind: str) -> float:
    return link["cold"]["median"] if kind == "cold" else link["warm"]["median"]


def _seconds(axes: Axes, links: list[Link], count: str, title: str) -> None:
    across = [link["symbols"] if count == "symbols" else link["relocations"] for link in links]
    for kind, filled in (("cold", True), ("warm", False)):
        axes.plot(
            across, [_median(link, kind) for link in links], marker="o", color=_COLOURS[COPIED],
            label=kind, markerfacecolor=_COLOURS[COPIED] if filled else "none",
            linestyle="-" if filled else "--",
        )  # fmt: skip
    _logarithmic(axes)
    axes.set_xlabel(title)
    axes.grid()


def _break_even(figures: Figures) -> Figure:
    table = savings(figures)
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.38 * len(table)), layout="constrained")
    for way in (ENABLED, SHARED):
        axes.barh(0, 0, color=_COLOURS[way], label=way)  # the legend has both, whoever saves
    for row, (link, enabled, direct) in enumerate(table.values()):
        for offset, saved, way in ((-0.18, enabled, ENABLED), (0.18, direct, SHARED)):
            if saved > 0:
                starts = link / (saved / 1e3)
                bar = axes.barh(row + offset, starts, 0.34, color=_COLOURS[way])
                axes.bar_label(bar, [f"{starts:,.0f}"], fontsize=7, padding=2, color=_INK)
    axes.set_yticks(range(len(table)), list(table))
    axes.invert_yaxis()
    _logarithmic(axes)
    axes.set_xlim(left=1)
    axes.set_xlabel("starts until a cold link has paid for itself (no bar: never)")
    axes.legend(fontsize=8)
    return figure


def _work(figures: Figures) -> Figure:
    work = figures["work"]
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.4 * len(work)), layout="constrained")
    for row, task in enumerate(work):
        axes.errorbar(
            task["faster"]["median"], row, xerr=_whiskers(task["faster"]), marker="s",
            capsize=3, color=_COLOURS[ENABLED],
        )  # fmt: skip
    axes.axvline(1, color=_INK, linewidth=1)
    axes.set_yticks(range(len(work)), [f"{task['name']} ({task['processes']})" for task in work])
    axes.invert_yaxis()
    axes.margins(y=0.2)
    axes.set_xlabel("times as fast with images (quartiles); in brackets: programs executed")
    axes.grid(axis="x")
    return figure
