"""The objections of 2010, one by one, each with what was measured."""

from __future__ import annotations

from benchmarks.figures import (
    COPIED,
    LAZY,
    NO_ENVIRONMENT,
    NO_FILES,
    NO_MACHINE,
    NONE,
    SHARED,
    UNCHECKED,
    WHOLE,
    Checks,
    Figures,
    Start,
    Validation,
    Way,
)
from benchmarks.words import (
    difference,
    is_resolved,
    listed,
    microseconds,
    number,
    slope,
    weighted_slope,
)

_CALLS_CLAIMED = 3
"""System calls a library, as the thread has it."""


def objections(figures: Figures) -> list[str]:
    """The section; every figure in it comes from the measurement."""
    sections = (_environment, _files, _calls, _relocations, _prelink, _sharing, _by_inode)
    lines = [
        "## The objections, one by one",
        "",
        "In February 2010 the linux-kernel list talked about *Dynamic linking in the kernel*: keep",
        "the result of relocation and start programs from it. The answer was a list of reasons",
        "against it, and: *Feel free to implement this and show us the numbers.* Spidl keeps the",
        "result without help from the kernel, so each reason can be measured.",
    ]
    for section in sections:
        lines += ["", *section(figures)]
    return lines


def _quote(text: str) -> list[str]:
    return [f"> {text}", ""]


def _environment(figures: Figures) -> list[str]:
    lines = _quote(
        "the kernel would have to also save a copy of all pieces of the processes's environment "
        "and compare all of the environment variable settings on every execution"
    )
    costs = [
        f"with {row['variables']} variables "
        f"{microseconds(_cost(row['ways'], NO_ENVIRONMENT, row['rounds']))}"
        for row in figures["checks"]
    ]
    lines += [
        "Not all of it: an image keeps the variables that steer linking (`LD_*`, `MALLOC_*`,",
        "`GLIBC_TUNABLES`) and compares those. It looks at the name of every variable once, in the",
        f"process itself. The image of `main(){{}}` with and without this check: {listed(costs)}.",
    ]
    return lines


def _cost(ways: dict[str, Way], without: str, rounds: int) -> tuple[float, float]:
    return difference(ways[WHOLE], ways[without], rounds)


def _files(figures: Figures) -> list[str]:
    lines = _quote(
        "any filesystem change involved in the shared libraries, the executable, or the dynamic "
        "linker would have to be monitored as well"
    )
    rows = figures["validation"]
    most, first = rows[-1], figures["checks"][0]
    costs = [_file_cost(row) for row in rows]
    each = weighted_slope([(row["inputs"], cost) for row, cost in zip(rows, costs, strict=True)])
    saved, _ = difference(most["ways"][LAZY], most["ways"][COPIED], most["rounds"])
    lines += [
        "Nothing is monitored. Each start asks the kernel for the identity of each input (device,",
        "inode, size, mtime, ctime), and whether paths that were looked for in vain are still",
        f"absent. That costs {microseconds(each)} an input (slope over "
        f"{rows[0]['inputs']} to {most['inputs']} inputs);",
        f"with {most['libraries']} libraries {microseconds(costs[-1])} of a start of "
        f"{number(most['ways'][COPIED]['milliseconds']['median'])} ms,",
        _share_of_saving(costs[-1], saved),
        "",
        f"In `main(){{}}` all checks together cost {microseconds(_cost_of_all(first))}: the",
        f"files {microseconds(_cost(first['ways'], NO_FILES, first['rounds']))}; processor, vDSO,",
        "auxiliary vector and stack limit "
        f"{microseconds(_cost(first['ways'], NO_MACHINE, first['rounds']))}. CPUID leaves a",
        "virtual machine for its hypervisor and comes back; on bare metal it does not.",
    ]
    return lines


def _file_cost(row: Validation) -> tuple[float, float]:
    return difference(row["ways"][COPIED], row["ways"][UNCHECKED], row["rounds"])


def _cost_of_all(row: Checks) -> tuple[float, float]:
    return _cost(row["ways"], NONE, row["rounds"])


def _share_of_saving(cost: tuple[float, float], saved: float) -> str:
    if saved <= 0:
        return "and the image saves nothing against ld.so there."
    still = f"after which the image still saves {number(saved / 1e3)} ms against ld.so"
    if not is_resolved(cost):
        return f"{still}."
    return f"{still}; without the checks it would save {number((saved + cost[0]) / 1e3)} ms."


def _calls(figures: Figures) -> list[str]:
    lines = _quote("the cost is only ~3 system calls per shared library")
    rows = figures["validation"]

    def calls(way: str) -> float:
        return slope([(row["libraries"], row["ways"][way]["calls"]) for row in rows])

    def time(way: str) -> float:
        points = [(row["libraries"], row["ways"][way]["milliseconds"]["median"]) for row in rows]
        return slope(points) * 1e3

    claimed = "more than" if calls(LAZY) > _CALLS_CLAIMED + 0.5 else "about"
    lines += [
        f"Under ld.so each tiny library costs {number(calls(LAZY), 2)} system calls and "
        f"{number(time(LAZY))} µs, {claimed} the three",
        f"of the thread; in an image that maps text from the files {number(calls(SHARED), 2)} and "
        f"{number(time(SHARED))} µs, in one",
        f"that has it copied {number(calls(COPIED), 2)} and {number(time(COPIED))} µs. Dropping",
        f" {_dropped(calls(LAZY), calls(SHARED))} of them a library saves "
        f"{number(time(LAZY) - time(SHARED))} µs, and the next "
        f"{_dropped(calls(SHARED), calls(COPIED))} save {number(time(SHARED) - time(COPIED))} µs.",
        "These libraries have one function each, and no relocations of their own to speak of.",
    ]
    return lines


def _dropped(before: float, after: float) -> str:
    return number(before - after, 2)


def _relocations(figures: Figures) -> list[str]:
    lines = _quote(
        "the more expensive part of shared libraries are the page faults from filling in the "
        "relocations"
    )
    starts = figures["starts"]
    relocating = [s for s in starts if s["rtld"]["relocating"] > s["rtld"]["loading"]]
    most = max(starts, key=lambda start: start["libraries"])
    lines += [
        f"By ld.so's own account (`LD_DEBUG=statistics`) relocation, page faults included, takes "
        f"longer than\nfinding and mapping libraries in {len(relocating)} of {len(starts)} programs"
        f" ({listed(_names(relocating))}).",
        f"For {most['program']} with its {most['libraries']} libraries it is "
        f"{number(most['rtld']['relocating'])} % against {number(most['rtld']['loading'])} %, in "
        f"{most['rtld']['relocations']:,} relocations.",
        "An image has neither. Its relocated pages come from the page cache, and only those that",
        "the program touches: see the page faults in the table above"
        f"; for {most['program']} {number(_faults(most, LAZY), 4)} become "
        f"{number(_faults(most, SHARED), 4)}.",
    ]
    return lines


def _names(starts: list[Start]) -> list[str]:
    return [start["program"] for start in starts]


def _faults(start: Start, way: str) -> float:
    return start["ways"][way]["faults"]


def _prelink(figures: Figures) -> list[str]:
    lines = _quote("we already have a mechanism to save that cost, it's called 'prelink'")
    most = max(figures["starts"], key=lambda start: start["libraries"])
    share = most["rtld"]["relocating"]
    saved = 100 * (1 - 1 / most["ways"][SHARED]["faster"]["median"])
    lines += [
        "We had: glibc removed its support in version 2.36, so it is not measured here"
        f" ({figures['machine']['libc']}).",
        "Prelink changed the libraries on disk; an image does not touch them. Prelink took away",
        "relocation and left loading: that bounds what it could save, for instance",
        f"{number(share)} % of ld.so's own time in the start of {most['program']}. The image saves "
        f"{number(saved)} % of that whole start.",
    ]
    return lines


def _sharing(figures: Figures) -> list[str]:
    lines = _quote("sharing pages")
    for row in figures["shared_text"]:
        if row["same_file"] and row["beside"]["shared"] > row["beside"]["private"]:
            found = "The same pages of the same file."
        else:
            found = "They are not the same pages."
        lines.append(
            f"`{row['library']}` in the image of {row['program']}: "
            f"{number(row['alone']['private'])} kB of text private and "
            f"{number(row['alone']['shared'])} kB shared before {row['program']} also\nran under "
            f"ld.so, {number(row['beside']['private'])} kB private and "
            f"{number(row['beside']['shared'])} kB shared while it did. {found}"
        )
    more = [
        name
        for name, ways in figures["memory"].items()
        if ways[SHARED]["private"] > ways[LAZY]["private"]
    ]
    less = [name for name in figures["memory"] if name not in more]
    lines += [
        "Relocated pages that nobody writes to are shared too, among the processes of one image.",
        "Of two equal processes each keeps no more private memory than under ld.so in",
        f"{listed(less)}; more in {listed(more)}. Text that is copied into an image is shared",
        "among its own processes only: see the table of memory.",
    ]
    return lines


def _by_inode(figures: Figures) -> list[str]:
    lines = _quote("parsed per-module data is cached by its inode id")
    ratios = {
        link["program"]: link["cold"]["median"] / link["warm"]["median"]
        for link in figures["links"]
        if link["warm"]["high"] < link["cold"]["low"]
    }
    if not ratios:
        said = "It makes no difference here that is beyond the spread."
    else:
        best = max(ratios, key=lambda name: ratios[name])
        said = (
            f"A second link is faster in {len(ratios)} of {len(figures['links'])} programs, most "
            f"in {best} ({number(ratios[best])} times)."
        )
    lines += [
        "Parsed tables of an object are kept, and used by every later link that needs the object.",
        f"{said} See the table of links.",
    ]
    return lines
