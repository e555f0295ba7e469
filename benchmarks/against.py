"""What the figures say against images: found by looking, so that the page cannot leave it out."""

from __future__ import annotations

from benchmarks.figures import (
    COLD,
    COLD_COPIED,
    COPIED,
    ENABLED,
    LAZY,
    RUN,
    SHARED,
    Figures,
    Start,
)
from benchmarks.words import is_faster, is_slower, listed, number, savings

_MANY_STARTS = 1_000


def against(figures: Figures) -> list[str]:
    """The section: one item for each thing that is worse than under ld.so."""
    found = [item for look in _LOOKS for item in look(figures)]
    lines = ["## What speaks against it", ""]
    lines += [f"- {item}" for item in found]
    return lines if found else [*lines, "Nothing that this measurement found."]


def _slow_ways(figures: Figures) -> list[str]:
    found = []
    for way, what in (
        (SHARED, "the image started directly"),
        (COPIED, "the copied image started directly"),
        (ENABLED, "enabled"),
        (RUN, "through `spidl run`"),
        (COLD, "with an image that had to be read from disk"),
        (COLD_COPIED, "with a copied image that had to be read from disk"),
    ):
        starts = [start for start in figures["starts"] if way in start["ways"]]
        slower = [s for s in starts if is_slower(s["ways"][way]["faster"])]
        same = [s for s in starts if s not in slower and not is_faster(s["ways"][way]["faster"])]
        if slower:
            worst = min(slower, key=lambda start: start["ways"][way]["faster"]["median"])
            factor = 1 / worst["ways"][way]["faster"]["median"]
            found.append(
                f"Slower than under ld.so, {what}: {listed(map(_name, slower))} (up to "
                f"{number(factor)} times the time, {worst['program']})."
            )
        if same:
            found.append(f"No faster beyond the spread, {what}: {listed(map(_name, same))}.")
    return found


def _name(start: Start) -> str:
    return start["program"]


def _memory(figures: Figures) -> list[str]:
    found = []
    for way in (SHARED, COPIED):
        more = {
            name: ways[way]["private"] - ways[LAZY]["private"]
            for name, ways in figures["memory"].items()
            if ways[way]["private"] > ways[LAZY]["private"]
        }
        if more:
            each = listed(f"{name} {number(kilobytes)} kB" for name, kilobytes in more.items())
            found.append(f"More private memory than under ld.so, {way}: {each}.")
    return found


def _links(figures: Figures) -> list[str]:
    late = []
    never = []
    for name, (link, saved, _) in savings(figures).items():
        if saved <= 0:
            never.append(name)
        elif link / (saved / 1e3) > _MANY_STARTS:
            late.append(name)
    found = []
    if late:
        found.append(
            f"Enabled, a cold link needs more than {_MANY_STARTS:,} starts to pay for itself: "
            f"{listed(late)}."
        )
    if never:
        found.append(f"Enabled, a link never pays for itself: {listed(never)}.")
    longest = max(figures["links"], key=lambda link: link["cold"]["median"])
    found.append(
        f"The first start waits for the link: {number(longest['cold']['median'])} s for "
        f"{longest['program']}, and again after each upgrade of one of its inputs."
    )
    return found


def _disk(figures: Figures) -> list[str]:
    shared = sum(start["image_kb"] for start in figures["starts"]) / 1024
    copied = sum(start["copied_kb"] for start in figures["starts"]) / 1024
    return [
        f"Images take room: {number(shared)} MiB for the {len(figures['starts'])} programs of this "
        f"page, {number(copied)} MiB with text copied."
    ]


def _static(figures: Figures) -> list[str]:
    scale = figures["scale"]
    image = scale[SHARED]["milliseconds"]["median"]
    return [
        f"A `main(){{}}` linked statically{what} still starts faster than the image of a dynamic "
        f"one: {number(scale[name]['milliseconds']['median'])} against {number(image)} ms."
        for name, what in (("static glibc", " with glibc"), ("no libc", ", without a libc,"))
        if scale[name]["milliseconds"]["median"] < image
    ]


def _work(figures: Figures) -> list[str]:
    same = [task["name"] for task in figures["work"] if not is_faster(task["faster"])]
    return [f"No gain beyond the spread in: {listed(same)}."] if same else []


_LOOKS = (_slow_ways, _memory, _links, _disk, _static, _work)
