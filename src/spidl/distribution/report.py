"""The figures as one page: HTML that needs no other file and no script."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from spidl.analyse.names import name_of
from spidl.distribution.charts import Bar, bars, columns, safe
from spidl.distribution.figures import Figures, Library, Package, Program

_TOP = 30
_BIN = 10
"""Calls a column of the histogram."""
_SHOWN = 40
"""Calls in the chart of those that some programs need."""
_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1b1f24; --soft: #57606a;
  --line: #d8dee4; --bar: #2166c2; --more: #a9c8f0; --mark: #b35900; --tile: #f5f7f9; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --ink: #e6e9ec; --soft: #9aa4ae;
  --line: #333a41; --bar: #5b9df0; --more: #2c4f7d; --mark: #f0a35b; --tile: #1d2228; } }
body { background: var(--page); color: var(--ink); max-width: 900px; margin: 2rem auto;
  padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .3rem; }
p { margin: .3rem 0 .8rem; } .soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr));
  gap: .7rem; margin: 1.2rem 0; }
.tiles div { background: var(--tile); border-radius: 8px; padding: .6rem .9rem; }
.tiles b { display: block; font-size: 1.4rem; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); } svg .label { text-anchor: end; }
svg .tick { text-anchor: middle; fill: var(--soft); }
svg .axis { text-anchor: middle; fill: var(--soft); }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .mark { stroke: var(--mark); stroke-width: 2; stroke-dasharray: 4 3; }
svg .bar { fill: var(--bar); } svg .more { fill: var(--more); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; }
.calls { columns: 4 11rem; list-style: none; padding: 0; font: 13px/1.5 ui-monospace, monospace; }
.calls span { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { text-align: left; padding: .2rem .5rem; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; vertical-align: top; }
th { position: sticky; top: 0; background: var(--page); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def render(figures: Figures, title: str) -> str:
    """The page, as text.  ``title`` says what was analysed."""
    body = [
        f"<h1>{safe(title)}</h1>",
        *_head(figures),
        *_programs(figures),
        *_packages(figures),
        *_calls(figures),
        *_libraries(figures),
        *_open(figures),
        *_table(figures),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{safe(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _many(count: int, what: str, plural: str = "") -> str:
    return f"{count:,} {what if count == 1 else plural or f'{what}s'}"


def _complete(figures: Figures) -> list[Program]:
    """Programs whose calls are all known: charts would show the others with too few."""
    return [program for program in figures.programs if not program.missing]


def _head(figures: Figures) -> Iterable[str]:
    counts = [len(program.calls) for program in _complete(figures)]
    nobody = sum(not count for count in figures.calls.values())
    tiles = [
        (f"{len(figures.programs):,}", "programs"),
        (f"{len(figures.packages):,}", "packages"),
        (f"{figures.objects:,}", "different ELF files"),
        (
            f"{statistics.median(counts):.0f}" if counts else "-",
            "calls, the median program",
        ),
        (f"{nobody} of {len(figures.calls)}", "calls nobody needs"),
        (_duration(figures.seconds), "of processor time"),
    ]
    yield (
        "<p>What each program can ask of the kernel: the system calls that its code, and the code "
        "of the libraries that it is linked with, can reach. Found from the binaries alone, by "
        "<code>spidl analyse --all</code>; no program was started. Libraries that a program opens "
        "at run time (dlopen) are not counted.</p>"
    )
    yield '<div class="tiles">'
    yield from (f"<div><b>{number}</b>{what}</div>" for number, what in tiles)
    yield "</div>"
    without = len(figures.programs) - len(counts)
    if without:
        yield (
            f"<p>Libraries of <b>{_many(without, 'program')}</b> are not among the files analysed: "
            "these programs are in the table, but not in the charts.</p>"
        )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _programs(figures: Figures) -> Iterable[str]:
    counts = sorted(len(program.calls) for program in _complete(figures))
    if not counts:
        return
    bins = [0] * (counts[-1] // _BIN + 1)
    for count in counts:
        bins[count // _BIN] += 1
    middle = statistics.median(counts)
    yield "<h2>How many calls a program needs</h2>"
    yield (
        f"<p>From {counts[0]} to {counts[-1]}, of the {len(figures.calls)} that Linux has on "
        f"x86-64. A program that needs few is one that a filter can hold tightly.</p>"
    )
    yield columns(bins, _BIN, "Programs by the number of calls they can make",
                  "system calls a program can make", "programs",
                  [(middle, f"median {middle:.0f}")])  # fmt: skip


def _packages(figures: Figures) -> Iterable[str]:
    rows = sorted(
        (p for p in figures.packages if p.programs and not p.missing),
        key=lambda p: (-len(p.calls), p.name),
    )
    if not rows:
        return
    shown = rows if len(rows) <= _TOP else rows[:_TOP]
    what = "all of them" if len(shown) == len(rows) else f"the {_TOP} with most, of {len(rows):,}"
    yield "<h2>How many calls a package needs</h2>"
    yield (
        f"<p>All calls that some program of the package can make; {what}. The table at the end has "
        "every package.</p>"
    )
    yield bars(
        [Bar(p.name, len(p.calls), f"{len(p.calls)}{' +?' if p.unknown else ''}") for p in shown],
        "Packages that need most calls", "system calls the package's programs can make",
    )  # fmt: skip
    if any(p.unknown for p in shown):
        yield '<p class="soft">+? : some code makes calls whose number is not known.</p>'
    if len(rows) > 2 * _TOP:
        least = rows[: -_TOP // 2 : -1]
        yield "<p>And those with fewest:</p>"
        yield bars([Bar(p.name, len(p.calls), str(len(p.calls))) for p in least],
                   "Packages that need fewest calls",
                   "system calls the package's programs can make")  # fmt: skip


def _calls(figures: Figures) -> Iterable[str]:
    complete = _complete(figures)
    programs = len(complete)
    makers = Counter(name_of(number) for program in complete for number in program.calls)
    ranked = sorted(makers.items(), key=lambda row: (-row[1], row[0]))
    everybody = [name for name, count in ranked if count == programs]
    some = [(name, count) for name, count in ranked if count < programs]
    nobody = sorted(name for name, count in figures.calls.items() if not count)
    if not programs:
        return
    yield "<h2>Which calls are needed</h2>"
    yield (
        f"<p>{_many(len(everybody), 'call')} can be made by every program, {len(some)} by some, "
        f"{len(nobody)} by nobody.</p>"
    )
    if some:
        yield f"<p>Those that some need{_first(some, _SHOWN)}:</p>"
        yield bars(
            [Bar(name, 100 * count / programs, f"{100 * count / programs:.1f} %  ({count:,})")
             for name, count in some[:_SHOWN]],
            "Calls by the share of programs that can make them", "% of the programs",
        )  # fmt: skip
    if len(some) > _SHOWN:
        yield "<p>And the others, with the number of programs that can make them:</p>"
        yield _list(f"{safe(name)} <span>{count:,}</span>" for name, count in some[_SHOWN:])
    yield f"<p>Needed by nobody ({len(nobody)}), as far as is known (see below what is not):</p>"
    yield _list(map(safe, nobody))
    yield "<details><summary>Needed by every program</summary>"
    yield _list(map(safe, sorted(everybody)))
    yield "</details>"


def _first(rows: Sequence[object], most: int) -> str:
    return f", the first {most} of {len(rows):,}" if len(rows) > most else ""


def _list(items: Iterable[str]) -> str:
    return f'<ul class="calls">{"".join(f"<li>{item}</li>" for item in items)}</ul>'


def _libraries(figures: Figures) -> Iterable[str]:
    def key(library: Library) -> tuple[int, int, str]:
        return -len(library.linked), -len(library.used), library.path

    rows = sorted((row for row in figures.libraries if row.used), key=key)[:_TOP]
    if not rows:
        return
    yield "<h2>Which libraries pull in most</h2>"
    yield (
        '<p><span class="key" style="background: var(--bar)"></span> calls that come with being '
        "linked: what constructors and functions that data points to can reach, in the library and "
        'in those that it needs. <span class="key" style="background: var(--more)"></span> calls '
        "on top if all of its exports are used. What libc does by itself is left out.</p>"
    )
    yield bars(
        [
            Bar(row.name, len(row.linked), f"{len(row.linked)} + {len(row.used - row.linked)}"
                f", {_many(row.users, 'user')}", len(row.used - row.linked))
            for row in rows
        ],
        "Libraries that bring most calls", "system calls",
    )  # fmt: skip
    heavy = sorted(
        (row for row in figures.libraries if row.linked),
        key=lambda row: (-len(row.linked) * row.users, row.path),
    )[: _TOP // 2]
    if heavy:
        yield "<p>And counted over all programs that are linked with them:</p>"
        yield bars(
            [Bar(row.name, len(row.linked) * row.users,
                 f"{len(row.linked)} times {_many(row.users, 'user')}") for row in heavy],
            "Libraries by calls and users", "calls that come with the library, times programs",
        )  # fmt: skip


def _open(figures: Figures) -> Iterable[str]:
    programs = figures.programs
    unknown = [p for p in programs if p.unknown]
    missing = [p for p in programs if p.missing]
    opens = sum(p.opens for p in programs)
    yield "<h2>What is not known</h2>"
    yield "<ul>"
    yield f"<li>{_many(len(unknown), 'program')} can reach a call whose number is not known.</li>"
    yield f"<li>{_many(opens, 'program')} can open more libraries at run time.</li>"
    yield f"<li>Libraries of {_many(len(missing), 'program')} are not among those analysed.</li>"
    yield f"<li>{_many(len(figures.failures), 'file')} could not be analysed.</li>"
    yield "</ul>"
    if unknown:
        yield from _details("Programs with calls of unknown number", ("package", "program"),
                            [(p.package, p.path) for p in unknown])  # fmt: skip
    if missing:
        yield from _details("Programs whose libraries are missing", ("program", "missing"),
                            [(p.path, ", ".join(p.missing)) for p in missing])  # fmt: skip
    if figures.failures:
        yield from _details("Files that could not be analysed", ("file", "code", "why"),
                            [(f.name, f.code, f.message) for f in figures.failures])  # fmt: skip


def _details(title: str, heading: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterable[str]:
    yield f"<details><summary>{safe(title)} ({len(rows):,})</summary>"
    yield from _rows(heading, rows)
    yield "</details>"


def _rows(
    heading: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()
) -> Iterable[str]:
    kinds = [' class="n"' if name in numbers else "" for name in heading]
    cells = "".join(f"<th{k}>{safe(h)}</th>" for h, k in zip(heading, kinds, strict=True))
    yield f"<table><thead><tr>{cells}</tr></thead><tbody>"
    for row in rows:
        cells = "".join(f"<td{k}>{safe(c)}</td>" for c, k in zip(row, kinds, strict=True))
        yield f"<tr>{cells}</tr>"
    yield "</tbody></table>"


def _table(figures: Figures) -> Iterable[str]:
    def row(package: Package) -> tuple[str, ...]:
        told = {"libraries missing": package.missing, "unknown numbers": package.unknown,
                "opens libraries": package.opens}  # fmt: skip
        notes = [text for text, holds in told.items() if holds]
        return (package.name, f"{package.programs}", f"{package.libraries}",
                f"{len(package.calls)}", f"{package.fewest}", ", ".join(notes))  # fmt: skip

    yield "<h2>All packages</h2>"
    yield (
        "<p>Calls: all that some program of the package can make; for packages without programs, "
        "what their libraries bring beyond libc's own. Fewest: of its program or library with the "
        "fewest. Libraries that no program needs are left out.</p>"
    )
    yield from _rows(
        ("package", "programs", "libraries", "calls", "fewest", "notes"),
        (row(package) for package in figures.packages),
        ("programs", "libraries", "calls", "fewest"),
    )
