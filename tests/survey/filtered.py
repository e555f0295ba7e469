"""Every program of this machine under a filter that kills: whatever it does must be allowed.

    python3 -m tests.survey.filtered [--only REGEX] [--json FILE] [--jobs N] [--memory GB]

Each program of the survey is asked for its ``--version`` and its ``--help`` in an empty folder,
with stdin closed: twice as it is, once under strace, and once as an image with the seccomp module.
Streams and exit status must be equal, and what strace saw must be in the image's filter; programs
that it starts are named in the setting ``exec``.  The exit status is 1 for any that is stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..needs import tool
from ..programs import filtering
from ..programs.filtering import Trace
from ..programs.harness import BuildFailed, Outcome, Timeout, empty
from .programs import FOLDERS, Candidate, candidates
from .run import Surveyor, kill_marked, show_progress

ARGUMENTS = ("--version", "--help")
MEANING = {
    "same": "same streams and exit status, and all that strace saw is allowed",
    "varies": "two starts without a filter differ already; nothing was stopped",
    "stopped": "the filter stopped it: a defect",
    "not allowed": "nothing was stopped, but strace saw calls that are not allowed: a defect",
    "different": "it differs under the filter: a defect",
    "needs more": 'it can reach calls of unknown number, and unknown = "deny" is not enough for it',
    "refused": "spidl refuses a filtered image of it, with a reason",
    "error": "spidl could not link it, with a filter or without",
    "set aside": "to link it takes more memory or time than the survey gives",
    "timeout": "it does not end in time under the filter: a defect",
    "no answer": "it does not end in time without a filter either",
    "skipped": "not for a survey (tests/survey/programs.py), or no program for this kernel",
}
SETTINGS: Mapping[str, Mapping[str, object]] = {
    "gdb": {"report": False},  # it says that there is a handler of SIGSYS (docs/seccomp.md)
}
DEFECTS = ("stopped", "not allowed", "different", "timeout")


@dataclass(frozen=True)
class Result:
    """What was found about one program."""

    program: str
    verdict: str
    detail: str = ""
    allowed: int = 0
    traced: int = 0
    """Calls of the program's own that strace saw."""
    unknown: bool = False
    """It can reach a call of unknown number: ``unknown = "refuse"`` would not link it."""
    exec: tuple[str, ...] = ()
    seconds: float = 0


class FilteredSurveyor(Surveyor):
    """Looks at one program after the other in one scratch folder."""

    def __init__(self, folder: Path, cache: Path, strace: str, memory: int) -> None:
        """``memory``: bytes that a link may take."""
        super().__init__(folder, "shared")
        self.memory = memory
        self.strace = strace
        self.logs = folder / "logs"
        self.image = folder / "image"
        self.steering = {"SPIDL_CACHE": str(cache)}

    def examine(self, candidate: Candidate) -> Result:
        name, started = str(candidate.path), time.monotonic()
        if candidate.skipped is not None:
            return Result(name, "skipped", candidate.skipped)
        try:
            result = self._examine(candidate.path)
        except OSError as error:  # such as x32 on a kernel without it
            result = Result(name, "skipped", f"does not start here: {error.strerror}")
        finally:
            kill_marked(self.mark)
            self.image.unlink(missing_ok=True)
        return replace(result, seconds=round(time.monotonic() - started, 3))

    def _examine(self, path: Path) -> Result:
        name = str(path)
        try:
            plain = {argument: [self._start(path, argument) for _ in range(2)]
                     for argument in ARGUMENTS}  # fmt: skip
            seen = Trace()
            for argument in ARGUMENTS:
                seen |= self._trace(path, argument)
        except Timeout:
            return Result(name, "no answer")
        result = Result(name, "same", exec=tuple(sorted(seen.started)))
        try:
            result = self._build(path, result)
        except BuildFailed as failure:
            said = failure.result.stderr.decode(errors="replace").strip()[:2000]
            if "MemoryError" in said or failure.result.status < 0:
                return replace(result, verdict="set aside", detail=f"memory: {said[:200]}")
            refused = failure.refused or (failure.code or "").startswith("seccomp/")
            return replace(result, verdict="refused" if refused else "error", detail=said)
        except Timeout:
            return replace(result, verdict="set aside", detail="spidl build did not end in time")
        may = filtering.allowed(self.image)
        result = replace(result, allowed=len(may), traced=len(seen.own - filtering.BY_LINKER))
        try:
            for argument, oracles in plain.items():
                outcome = self._start(path, argument, self.image)
                result = self._judge(path, argument, oracles, outcome, result)
        except Timeout:
            return replace(result, verdict="timeout")
        beyond = seen.calls - filtering.BY_LINKER - may
        if beyond and result.verdict in ("same", "varies"):
            result = replace(result, verdict="not allowed", detail=" ".join(sorted(beyond)))
        if result.unknown and result.verdict in DEFECTS:
            return replace(result, verdict="needs more")
        return result

    def _judge(
        self, path: Path, argument: str, oracles: list[Outcome], outcome: Outcome, result: Result
    ) -> Result:
        if result.verdict in DEFECTS:
            return result
        shown = f"{argument}\n== without: {oracles[0]}\n== filtered: {outcome}"
        if filtering.stopped(outcome) and not filtering.stopped(oracles[0]):
            return replace(result, verdict="stopped", detail=shown)
        if outcome not in oracles:
            # A rare variation of the program's own?  Ask it again before blaming the filter.
            oracles += [self._start(path, argument) for _ in range(2)]
            # Or one of its memory's, which binding at the start leaves in another state?
            oracles.append(self._start(path, argument, extra={"LD_BIND_NOW": "1"}))
        if any(oracle != oracles[0] for oracle in oracles):
            return replace(result, verdict="varies")
        if outcome != oracles[0]:
            return replace(result, verdict="different", detail=shown)
        return result

    def _build(self, path: Path, result: Result) -> Result:
        """Link it with ``unknown = "refuse"``, else with ``"deny"``."""
        settings: dict[str, object] = {"unknown": "refuse", **SETTINGS.get(path.name, {})}
        if result.exec:
            settings["exec"] = list(result.exec)
        program = Path(os.path.realpath(path))
        with _limited(self.memory):
            try:
                filtering.build(program, self.image, settings, steering=self.steering)
            except BuildFailed as failure:
                if failure.code != "seccomp/unknown":
                    raise
                settings["unknown"] = "deny"
                filtering.build(program, self.image, settings, steering=self.steering)
                return replace(result, unknown=True)
        return result

    def _trace(self, path: Path, argument: str) -> Trace:
        empty(self.scratch)
        argv = [str(path), argument]
        return filtering.trace(
            self.strace, argv, self.logs, cwd=self.scratch, env=self.env, stdin=None, timeout=30
        )[1]


@contextlib.contextmanager
def _limited(memory: int) -> Iterator[None]:
    """Processes that are started meanwhile have so many bytes of addresses."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


_surveyor: FilteredSurveyor


def _begin(folder: str, strace: str, memory: int) -> None:
    global _surveyor
    own = Path(tempfile.mkdtemp(dir=folder))
    _surveyor = FilteredSurveyor(own, Path(folder) / "cache", strace, memory)


def _examine(candidate: Candidate) -> Result:
    return _surveyor.examine(candidate)


def survey(chosen: Sequence[Candidate], jobs: int, memory: int) -> list[Result]:
    """Look at all of them in a pool of processes; prints one progress line on a terminal.

    ``memory``: bytes that a link may take.
    """
    results = []
    counts: Counter[str] = Counter()
    folder = tempfile.mkdtemp(prefix="spidl-filtered-")
    live = sys.stderr.isatty()
    try:
        strace = tool("strace", "strace")
        with multiprocessing.Pool(jobs, _begin, (folder, strace, memory)) as pool:
            for result in pool.imap_unordered(_examine, chosen):
                results.append(result)
                counts[result.verdict] += 1
                if live:
                    show_progress(len(results), len(chosen), result.program, counts)
                elif result.verdict in DEFECTS:
                    print(f"{result.verdict}: {result.program}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if live:
            print("\r\033[K", end="", file=sys.stderr)
    return sorted(results, key=lambda result: result.program)


def report(results: Sequence[Result]) -> str:
    """What is wrong, then the counts."""
    lines = []
    for result in results:
        if result.verdict in ("same", "varies", "skipped", "no answer"):
            continue
        lines.append(f"{result.verdict}: {result.program} {' '.join(result.exec)}")
        shown = 30 if result.verdict in DEFECTS else 4
        lines += [f"    {line}" for line in result.detail.splitlines()[:shown]]
    counts = Counter(result.verdict for result in results)
    lines += ["", f"{'verdict':<12}{'programs':>9}  meaning"]
    lines += [f"{verdict:<12}{counts[verdict]:>9}  {meaning}"
              for verdict, meaning in MEANING.items() if counts[verdict]]  # fmt: skip
    if sizes := [result.allowed for result in results if result.allowed]:
        lines.append(
            f"calls allowed: mean {statistics.mean(sizes):.0f}, median "
            f"{statistics.median(sizes):.0f}, {min(sizes)} to {max(sizes)}; programs "
            f"that can reach a call of unknown number: {sum(result.unknown for result in results)}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.survey.filtered", description=__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="names that match")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every result there")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--memory", type=int, default=6, metavar="GB", help="of a link")
    parser.add_argument(
        "folder", nargs="*", type=Path, default=list(FOLDERS), help="default: /usr/bin /usr/sbin"
    )
    options = parser.parse_args(arguments)
    results = survey(candidates(options.folder, options.only), options.jobs, options.memory << 30)
    print(report(results))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1))
    return 1 if any(result.verdict in DEFECTS for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
