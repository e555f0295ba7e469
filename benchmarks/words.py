"""What can be said of figures: every word that depends on the outcome is chosen here."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

from benchmarks.figures import ENABLED, LAZY, SHARED, Figures, Spread, Way

RESOLVED = 2.0
"""A difference counts from this many of its standard errors on."""


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, without an exponent; thousands apart."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "-"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def between(spread: Spread, digits: int = 3) -> str:
    """The median and, in brackets, the quartiles."""
    quartiles = f"{number(spread['low'], digits)}-{number(spread['high'], digits)}"
    return f"{number(spread['median'], digits)} ({quartiles})"


def listed(names: Iterable[str], none: str = "none") -> str:
    """``a, b and c``."""
    words = list(names)
    if len(words) < 2:
        return "".join(words) or none
    return f"{', '.join(words[:-1])} and {words[-1]}"


def is_faster(faster: Spread) -> bool:
    """Beyond the spread: three rounds of four say so."""
    return faster["low"] > 1


def is_slower(faster: Spread) -> bool:
    return faster["high"] < 1


def verdict(faster: Spread) -> str:
    """For a sentence: how the times compare."""
    median = faster["median"]
    if is_faster(faster):
        return f"{number(median)} times as fast"
    if is_slower(faster):
        return f"slower, {number(1 / median)} times the time"
    return f"not different beyond the spread ({between(faster)})"


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The least-squares slope."""
    return weighted_slope([(x, (y, 1.0)) for x, y in points])[0]


def weighted_slope(points: Sequence[tuple[float, tuple[float, float]]]) -> tuple[float, float]:
    """Of points (x, (y, standard error of y)): the slope and its standard error."""
    weights = [1 / max(error, 1e-9) ** 2 for _, (_, error) in points]
    whole = sum(weights)
    middle_x = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / whole
    middle_y = sum(w * y for w, (_, (y, _)) in zip(weights, points, strict=True)) / whole
    across = sum(w * (x - middle_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    up = sum(
        w * (x - middle_x) * (y - middle_y) for w, (x, (y, _)) in zip(weights, points, strict=True)
    )
    return up / across, across**-0.5


def difference(one: Way, other: Way, rounds: int) -> tuple[float, float]:
    """(microseconds by which ``one`` is longer, standard error), from medians and quartiles.

    Of a median of n values the standard error is 1.25 sigma / sqrt(n), where for a normal
    distribution sigma is the quartiles' distance / 1.35.
    """
    errors = [
        1.25 * (way["milliseconds"]["high"] - way["milliseconds"]["low"]) / 1.35 / rounds**0.5
        for way in (one, other)
    ]
    value = one["milliseconds"]["median"] - other["milliseconds"]["median"]
    return value * 1e3, math.hypot(*errors) * 1e3


def is_resolved(found: tuple[float, float]) -> bool:
    """Whether a difference is more than chance."""
    return abs(found[0]) >= RESOLVED * found[1]


def microseconds(found: tuple[float, float]) -> str:
    """A difference with its error; or that it was too small to see."""
    value, error = found
    if not is_resolved(found):
        return f"less than the {number(RESOLVED * error, 2)} µs that this run can resolve"
    return f"{number(value, 2)} µs (± {number(RESOLVED * error, 2)})"


def more_or_less(change: float, unit: str) -> str:
    """A change, in words: positive is more."""
    if abs(change) < 0.5:
        return "as much"
    return f"{number(abs(change))} {unit} {'more' if change > 0 else 'less'}"


def starts_until(link: float, saved: float) -> str:
    """After how many starts ``link`` seconds are paid back by ``saved`` milliseconds each."""
    if saved <= 0:
        return "never"
    return f"{math.ceil(link / (saved / 1e3)):,}"


def savings(figures: Figures) -> dict[str, tuple[float, float, float]]:
    """(seconds of a cold link, ms saved a start when enabled, when directly started)."""
    seconds = {link["program"]: link["cold"]["median"] for link in figures["links"]}
    found = {}
    for start in figures["starts"]:
        if start["program"] in seconds:
            times = {way: start["ways"][way]["milliseconds"]["median"] for way in start["ways"]}
            found[start["program"]] = (
                seconds[start["program"]],
                times[LAZY] - times[ENABLED],
                times[LAZY] - times[SHARED],
            )
    return found


def flow(lines: Iterable[str], width: int = 100) -> list[str]:
    """The same Markdown with its paragraphs and list items filled; the rest stays as it is."""
    filled: list[str] = []
    paragraph: list[str] = []

    def finish() -> None:
        if paragraph:
            indent = "  " if paragraph[0].startswith("- ") else ""
            filled.extend(
                textwrap.wrap(
                    " ".join(line.strip() for line in paragraph), width, subsequent_indent=indent,
                    break_long_words=False, break_on_hyphens=False,
                )
            )  # fmt: skip
            paragraph.clear()

    for line in lines:
        if not line or line.startswith(("|", "#", "!", ">")):
            finish()
            filled.append(line)
        else:
            if line.startswith("- "):
                finish()
            paragraph.extend(line.splitlines())
    finish()
    return filled


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """A Markdown table: ``left`` columns of words, then numbers to the right."""
    columns = len(heading)
    rule = ["---"] * left + ["--:"] * (columns - left)
    return [f"| {' | '.join(row)} |" for row in (heading, rule, *rows)]
