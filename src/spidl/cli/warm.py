"""``spidl warm``: link many programs ahead of their first start."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from types import FrameType

from spidl.cache.store import Store
from spidl.cli.opinion import interpreter_of
from spidl.cli.pool import FAILED, LINKED, REFUSED, Outcome, link_all, refused
from spidl.cli.states import is_library_name
from spidl.cli.tables import BOLD, paint, plain, write, write_json
from spidl.diagnostics import LinkError, Place
from spidl.session import Request, find_program, selected

_VALID = "already valid"
_STATES = (LINKED, _VALID, REFUSED, FAILED)
_EXAMPLES = 3


def warm(options: argparse.Namespace) -> int:
    """Link what is not linked yet; 2 where something failed.

    Raises `LinkError` ``cli/usage``, ``warm/no-folder``, ``cache/...``.
    """
    jobs = options.jobs if options.jobs is not None else os.cpu_count() or 1
    if jobs < 1:
        raise LinkError("cli/usage", f"--jobs {jobs} is less than 1", help="leave it out")
    if not (options.programs or options.folders):
        raise LinkError("cli/usage", "no program is given", help="spidl warm PROG..., or --all DIR")
    signal.signal(signal.SIGTERM, _interrupt)
    began = time.perf_counter()
    requests, outcomes = _requests(options)
    cold = []
    for request in requests:
        kept = _kept(request)
        if kept is None:
            cold.append(request)
        else:
            outcomes.append(kept)
    bar = _Bar(len(cold))
    try:
        for outcome in link_all(cold, jobs, bar.show):
            outcomes.append(outcome)
            bar.done += 1
    finally:
        bar.clear()
    seconds = time.perf_counter() - began
    outcomes.sort(key=lambda outcome: outcome.program)
    counts = {state: sum(o.state == state for o in outcomes) for state in _STATES}
    if options.json:
        write_json({"programs": [asdict(outcome) for outcome in outcomes],
                    "counts": counts, "seconds": seconds, "jobs": jobs})  # fmt: skip
    else:
        write(_text(outcomes, counts, seconds, jobs))
    return 2 if counts[FAILED] else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _requests(options: argparse.Namespace) -> tuple[list[Request], list[Outcome]]:
    """What to link, each path once, and the names that are no programs.

    Hard links of one file have an entry each, as they are started by path.
    """
    programs: dict[str, None] = {}
    unknown = []
    for name in dict.fromkeys(options.programs):
        try:
            programs[find_program(name)] = None
        except LinkError as error:
            unknown.append(Outcome(name, FAILED, error.code, error.diagnostic.message))
    for folder in options.folders:
        programs |= dict.fromkeys(programs_in(folder))
    return [
        Request(program, tuple(options.extra), options.layout, options.config,
                tuple(options.settings))
        for program in programs
    ], unknown  # fmt: skip


def _kept(request: Request) -> Outcome | None:
    """The outcome of an earlier link that still holds.  Raises `LinkError` ``cache/...``."""
    choice = selected(request)
    store = Store(choice.cache)
    store.prepare()
    entry = store.find(choice.key)
    if entry is None or entry.is_error:
        return None
    if entry.image is None:
        return refused(request.program, entry.kept.message)
    return Outcome(request.program, _VALID)


def programs_in(folder: str) -> list[str]:
    """Absolute paths of the dynamically linked x86-64 programs in a folder, by name.

    Raises `LinkError` ``warm/no-folder``.
    """
    try:
        with os.scandir(folder) as found:
            names = sorted(item.name for item in found)
    except (OSError, ValueError) as error:
        raise LinkError(
            "warm/no-folder",
            f"cannot look into the folder: {getattr(error, 'strerror', None) or error}",
            place=Place(folder),
            help="give --all the path of a folder with programs, such as /usr/bin",
        ) from None
    paths = (os.path.join(os.path.abspath(folder), name) for name in names)
    return [path for path in paths if not is_library_name(path) and _is_program(path)]


def _is_program(path: str) -> bool:
    """Whether the kernel would start a run-time linker for it: ELF, with PT_INTERP (gABI 5)."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK):
            return False
    except (OSError, ValueError):
        return False
    return interpreter_of(path) is not None


class _Bar:
    """One line on standard error while it is a terminal: how far, and what is being linked."""

    def __init__(self, total: int) -> None:
        self.done = 0
        self._total = total
        self._shown = total > 0 and sys.stderr.isatty()

    def show(self, running: Sequence[str]) -> None:
        if not self._shown:
            return
        columns = shutil.get_terminal_size().columns
        width = max(10, min(30, columns // 3))
        full = width * self.done // self._total
        names = ", ".join(plain(os.path.basename(path)) for path in running)
        line = f"[{'#' * full}{'.' * (width - full)}] {self.done}/{self._total} {names}"
        sys.stderr.write(f"\r{line[: columns - 1]}\x1b[K")
        sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _text(outcomes: list[Outcome], counts: dict[str, int], seconds: float, jobs: int) -> list[str]:
    lines = []
    for state in _STATES:
        if not counts[state]:
            continue
        lines.append(paint(f"{state:<14} {counts[state]:>5}", BOLD))
        by_code: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            if outcome.state == state and outcome.code:
                by_code.setdefault(outcome.code, []).append(outcome)
        for code, found in sorted(by_code.items(), key=lambda item: (-len(item[1]), item[0])):
            names = ", ".join(os.path.basename(o.program) for o in found[:_EXAMPLES])
            more = f" and {len(found) - _EXAMPLES} more" if len(found) > _EXAMPLES else ""
            lines.append(f"  {code} ({len(found)}): {plain(names)}{more}")
            lines.append(f"    for instance: {plain(found[0].message or '')}")
    many = f"{len(outcomes)} program{'' if len(outcomes) == 1 else 's'}"
    return [*lines, f"{many} in {seconds:.1f} s, {jobs} at a time"]
