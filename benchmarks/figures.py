"""The raw figures as they are kept in JSON: what is measured, in which unit."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

DIGITS = 4
"""Significant digits that are kept."""

LAZY, NOW, COLD, COLD_COPIED, RUN, ENABLED, SHARED, COPIED = (
    "ld.so", "ld.so, bound at once", "image, cold", "copied image, cold", "spidl run",
    "enabled", "image", "copied image",
)  # fmt: skip
"""The ways to start a program; `Start` has them all."""
UNCHECKED = "copied image, files unchecked"
WHOLE, NO_ENVIRONMENT, NO_FILES, NO_MACHINE, NONE = (
    "all checks", "no environment", "no files", "no machine", "no checks",
)  # fmt: skip
"""Images with fewer checks, for `Validation` and `Checks`."""


class Spread(TypedDict):
    """A median between its quartiles."""

    low: float
    median: float
    high: float


class Way(TypedDict):
    """Starts of one program in one way."""

    milliseconds: Spread
    faster: Spread
    """ld.so's time divided by this way's, round by round."""
    faults: float
    """Minor page faults, median."""
    calls: int
    """System calls of the whole process, its children included."""


class Rtld(TypedDict):
    """What ld.so says of its own work (LD_DEBUG=statistics), in per cent of it."""

    loading: float
    relocating: float
    relocations: int
    """With symbol and relative ones."""


class Start(TypedDict):
    program: str
    arguments: list[str]
    libraries: int
    rounds: int
    ways: dict[str, Way]
    rtld: Rtld
    image_kb: float
    copied_kb: float


class Memory(TypedDict):
    """One of two equal waiting processes, in kB (smaps_rollup)."""

    private: float
    shared: float
    pss: float
    alone: float
    """What was private before the second process started."""


class Text(TypedDict):
    """The executable mappings of one library in one process, in kB (smaps)."""

    private: float
    shared: float


class SharedText(TypedDict):
    """Whose pages the text of a library is, with one process and with two."""

    program: str
    library: str
    alone: Text
    """In the image's process, before another one has the library."""
    beside: Text
    """In the image's process, while the program also runs under ld.so."""
    plain: Text
    """In ld.so's process, at the same time."""
    same_file: bool
    """Both map the same inode of the same device."""


class Validation(TypedDict):
    """Starts of a program with so many libraries."""

    libraries: int
    rounds: int
    inputs: int
    """Files and absent paths that the image checks."""
    ways: dict[str, Way]


class Checks(TypedDict):
    """Starts of an image of ``main(){}`` that lacks some of its checks."""

    variables: int
    """Environment variables at start."""
    rounds: int
    ways: dict[str, Way]


class Link(TypedDict):
    """A whole `spidl build` of one program, in seconds."""

    program: str
    objects: int
    symbols: int
    relocations: int
    cold: Spread
    warm: Spread


class Work(TypedDict):
    """Many processes, with and without images, in seconds."""

    name: str
    what: str
    processes: int
    """Programs that were executed, all in all."""
    plain: Spread
    images: Spread
    faster: Spread
    """Round by round."""


class Figures(TypedDict):
    date: str
    machine: dict[str, str]
    quick: bool
    seconds: float
    """The whole measurement."""
    starts: list[Start]
    scale: dict[str, Way]
    """``main(){}`` without a dynamic linker, to compare with."""
    memory: dict[str, dict[str, Memory]]
    shared_text: list[SharedText]
    validation: list[Validation]
    checks: list[Checks]
    links: list[Link]
    by_symbols: list[Link]
    by_relocations: list[Link]
    work: list[Work]
    missing: list[str]
    """Programs that this machine does not have."""


def spread(values: Sequence[float]) -> Spread:
    """Quartiles; of fewer than four values, the extremes."""
    if len(values) < 4:
        return {"low": min(values), "median": statistics.median(values), "high": max(values)}
    low, median, high = statistics.quantiles(values, n=4)
    return {"low": low, "median": median, "high": high}


def rounded(value: Any) -> Any:
    """The same with `DIGITS` significant digits in every number that is not whole."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        short = float(f"{value:.{DIGITS}g}")
        return int(short) if short.is_integer() else short
    return value


def write_figures(figures: Figures, path: Path) -> None:
    """As JSON; objects that hold no others take a line each."""
    text = json.dumps(rounded(figures), indent=1)
    text = re.sub(r"\{\s+([^{}\[\]]*?)\s+\}", lambda m: f"{{{' '.join(m[1].split())}}}", text)
    path.write_text(text + "\n", encoding="utf-8")


def read_figures(path: Path) -> Figures:
    return cast(Figures, json.loads(path.read_text(encoding="utf-8")))
