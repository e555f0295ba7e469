"""docs/numbers.md: the tables, and the prose that fits what was measured."""

from __future__ import annotations

import math

from benchmarks.against import against
from benchmarks.figures import (
    COLD,
    COLD_COPIED,
    COPIED,
    ENABLED,
    LAZY,
    NOW,
    RUN,
    SHARED,
    UNCHECKED,
    Figures,
    Start,
)
from benchmarks.objections import objections
from benchmarks.words import (
    between,
    flow,
    is_faster,
    listed,
    number,
    savings,
    starts_until,
    table,
    verdict,
)

_WAYS = (NOW, COLD, COLD_COPIED, RUN, ENABLED, SHARED, COPIED)


def render(figures: Figures) -> str:
    """The whole page; its charts are in the folder ``numbers`` beside it."""
    sections = (_summary, _ways, _starts, _calls, objections, _memory, _validation, _links,
                _break_even, _work, against, _method)  # fmt: skip
    lines = ["# The numbers"]
    for section in sections:
        lines += ["", *section(figures)]
    return "\n".join(flow(lines)) + "\n"


def _summary(figures: Figures) -> list[str]:
    machine = figures["machine"]
    starts = figures["starts"]
    quick = " A quick run: few rounds, few programs." if figures["quick"] else ""
    lines = [
        "`make numbers` measures all of this and writes this page: the figures, the charts, and",
        "the words that depend on them. Raw figures: [numbers.json](numbers.json).",
        "",
        f"Measured on {figures['date']}, within {math.ceil(figures['seconds'] / 60)} minutes."
        f"{quick} "
        f"{machine['processor']}, {machine['memory']}, {machine['system']},",
        f"{machine['kernel']}, {machine['libc']}, Python {machine['python']}, numpy "
        f"{machine['numpy']}, {machine['gcc']}.",
        "",
    ]
    for way, what in ((ENABLED, "enabled, under its own name"), (SHARED, "as an image, directly")):
        faster = [s for s in starts if is_faster(s["ways"][way]["faster"])]
        best = max(starts, key=lambda s: s["ways"][way]["faster"]["median"])
        worst = min(starts, key=lambda s: s["ways"][way]["faster"]["median"])
        lines.append(
            f"- {what[0].upper()}{what[1:]}, {len(faster)} of {len(starts)} programs start faster "
            f"than under ld.so: from {number(worst['ways'][way]['faster']['median'])} times as "
            f"fast ({worst['program']}) to {number(best['ways'][way]['faster']['median'])} "
            f"({best['program']}, {best['libraries']} libraries)."
        )
    for task in figures["work"]:
        lines.append(
            f"- *{task['name']}*, {task['processes']:,} programs executed: "
            f"{verdict(task['faster'])}."
        )
    return lines


def _ways(figures: Figures) -> list[str]:
    return [
        "## The ways to start a program",
        "",
        f"- *{LAZY}*: as always. *{NOW}*: with `LD_BIND_NOW=1`, which is what an image amounts to.",
        "- *image*: the image file itself is executed; text and constants come from the original",
        "  libraries. *copied image*: `--layout=copy`, text is in the image.",
        "- *cold*: the image's pages were dropped from the page cache before each start",
        "  (posix_fadvise after fsync); the libraries' pages and the kernel's own caches stay. The",
        "  disk may have caches of its own.",
        "- *enabled*: its name in the folder of `spidl enable`. *spidl run*: the command.",
        "",
        "All ways take turns, in each round in another order. *Faster* is the ratio to ld.so,",
        "round by round: the median, in brackets the quartiles. Above 1 is faster than ld.so.",
    ]


def _starts(figures: Figures) -> list[str]:
    starts = figures["starts"]
    ways = [way for way in _WAYS if any(way in start["ways"] for start in starts)]
    lines = ["## Start until exit", "", "![start times](numbers/starts.svg)", ""]
    lines += table(
        ("program", "libraries", f"{LAZY}, ms", *ways),
        (
            (
                f"`{' '.join([start['program'], *start['arguments']])}`",
                str(start["libraries"]),
                between(start["ways"][LAZY]["milliseconds"]),
                *(_faster(start, way) for way in ways),
            )
            for start in starts
        ),
    )
    scale = figures["scale"]
    static, none = (
        number(scale[name]["milliseconds"]["median"]) for name in ("static glibc", "no libc")
    )
    lines += [
        "",
        f"For scale, side by side: `main(){{}}` under ld.so "
        f"{number(scale[LAZY]['milliseconds']['median'])} ms, as an image "
        f"{number(scale[SHARED]['milliseconds']['median'])}, linked statically with glibc "
        f"{static}, a static program without a libc {none}, which is the least a process costs.",
    ]
    return lines


def _faster(start: Start, way: str) -> str:
    return between(start["ways"][way]["faster"]) if way in start["ways"] else "-"


def _calls(figures: Figures) -> list[str]:
    ways = (LAZY, NOW, SHARED, COPIED, ENABLED)
    lines = [
        "## System calls and page faults of a start",
        "",
        "Of the whole process, from execve to exit, what the program itself does included; system",
        "calls by `strace -f -c`, minor page faults by rusage. *rtld* is how ld.so's own work",
        "divides into loading and relocating (`LD_DEBUG=statistics`).",
        "",
    ]
    return lines + table(
        ("program", *(f"calls: {way}" for way in ways), *(f"faults: {way}" for way in ways),
         "relocations", "rtld: loading, %", "relocating, %"),
        (
            (
                start["program"],
                *(f"{start['ways'][way]['calls']:,}" for way in ways),
                *(f"{start['ways'][way]['faults']:,.0f}" for way in ways),
                f"{start['rtld']['relocations']:,}",
                f"{start['rtld']['loading']:.0f}",
                f"{start['rtld']['relocating']:.0f}",
            )
            for start in figures["starts"]
        ),
    )  # fmt: skip


def _memory(figures: Figures) -> list[str]:
    lines = [
        "## Memory of a waiting process",
        "",
        "![memory](numbers/memory.svg)",
        "",
        "kB of one of two equal processes that wait for their standard input (smaps_rollup):",
        "private / shared / Pss; and in brackets what was private before the second one started.",
        "Private is what no other process maps just then: the text of a library that nobody else",
        "uses counts as private under every linker, and a copied image has only its own processes",
        "to share text with.",
        "",
    ]
    ways = (LAZY, NOW, SHARED, COPIED)
    return lines + table(
        ("program", *ways),
        (
            (
                name,
                *(
                    f"{by_way[way]['private']:,} / {by_way[way]['shared']:,} / "
                    f"{by_way[way]['pss']:,} ({by_way[way]['alone']:,})"
                    for way in ways
                ),
            )
            for name, by_way in figures["memory"].items()
        ),
    )


def _validation(figures: Figures) -> list[str]:
    ways = (LAZY, SHARED, COPIED, UNCHECKED)
    lines = [
        "## What the checks cost",
        "",
        "![start over libraries](numbers/validation.svg)",
        "",
        "Generated programs that need so many tiny libraries. *Files unchecked* is the same copied",
        "image without the checks of its inputs, made for this measurement only: the difference is",
        "what validation costs. ms, and system calls.",
        "",
    ]
    return lines + table(
        ("libraries", "inputs", *ways),
        (
            (
                str(row["libraries"]),
                str(row["inputs"]),
                *(
                    f"{between(row['ways'][way]['milliseconds'])}; {row['ways'][way]['calls']}"
                    for way in ways
                ),
            )
            for row in figures["validation"]
        ),
    )


def _links(figures: Figures) -> list[str]:
    lines = [
        "## How long a link takes",
        "",
        "![link times](numbers/links.svg)",
        "",
        "The whole `spidl build`, Python's start included, in seconds. *Cold*: an empty cache.",
        "*Warm*: the same link again, with what the first one kept of each object. The files are",
        "in the page cache in both. Generated: one library with so many symbols, or relocations",
        "(each R_X86_64_64 against a symbol).",
        "",
    ]
    links = [*figures["links"], *figures["by_symbols"], *figures["by_relocations"]]
    return lines + table(
        ("link", "objects", "symbols", "relocations", "cold, s", "warm, s"),
        (
            (
                link["program"],
                str(link["objects"]),
                f"{link['symbols']:,}",
                f"{link['relocations']:,}",
                between(link["cold"]),
                between(link["warm"]),
            )
            for link in links
        ),
    )


def _break_even(figures: Figures) -> list[str]:
    lines = [
        "## When a link has paid for itself",
        "",
        "![break-even](numbers/break-even.svg)",
        "",
        "Seconds of a cold link, divided by what a start saves.",
        "",
    ]
    return lines + table(
        ("program", "link, s", "saved, ms: enabled", "image", "starts: enabled", "image"),
        (
            (
                name,
                number(link),
                number(enabled),
                number(direct),
                starts_until(link, enabled),
                starts_until(link, direct),
            )
            for name, (link, enabled, direct) in savings(figures).items()
        ),
    )


def _work(figures: Figures) -> list[str]:
    lines = [
        "## Real work",
        "",
        "![work](numbers/work.svg)",
        "",
        "*Images*: PATH begins with the folder of enabled programs, where gcc finds cc1, as,",
        "collect2 and ld, too (its option `-B`). What is started by an absolute path, above all",
        "`/bin/sh`, starts as always in both.",
        "",
    ]
    return lines + table(
        ("work", "", "programs executed", "plain, s", "images, s", "faster", "saved a program, ms"),
        (
            (
                task["name"],
                task["what"],
                f"{task['processes']:,}",
                between(task["plain"]),
                between(task["images"]),
                between(task["faster"]),
                number(
                    (task["plain"]["median"] - task["images"]["median"]) * 1e3 / task["processes"],
                    2,
                ),
            )
            for task in figures["work"]
        ),
        left=2,
    )


def _method(figures: Figures) -> list[str]:
    rounds = [start["rounds"] for start in figures["starts"]]
    missing = figures["missing"]
    return [
        "## How it was measured",
        "",
        "A process is started with posix_spawn, its output goes to /dev/null, and the clock stops",
        "when wait4 returns: start, the program's own work, exit and the kernel's clean-up. That",
        f"was done {min(rounds)} to {max(rounds)} times for each way of each program. Ways that",
        "end with different wait statuses stop the measurement. The cache, the enabled programs",
        "and all files are in a temporary folder; the environment has no variable that steers a",
        "linker, and LC_ALL=C."
        + (f" Not on this machine, and left out: {listed(missing)}." if missing else ""),
    ]
