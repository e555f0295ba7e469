"""Every program of this machine, under the system's linker and as an image.

    python3 -m tests.survey [--only REGEX] [--json FILE] [--layout shared|copy] [--jobs N]
                            [--config FILE]

Each program is asked for its ``--version`` (``--help`` if that fails without a word) in an empty
folder, with stdin closed: twice under the system's linker, which sets aside what varies by itself,
and once as an image.  Streams and exit status must be equal.  The exit status is 1 if less than
99 % of the programs that could be compared are the same, or if an image crashes where the program
does not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..programs.harness import (
    PLAIN_WAY,
    BuildFailed,
    Images,
    Layout,
    Outcome,
    Timeout,
    describe_status,
    empty,
    run,
)
from .programs import FOLDERS, Candidate, candidates

Verdict = Literal[
    "same", "varies", "different", "crashed", "plain way", "refused", "error", "timeout",
    "no answer", "skipped",
]  # fmt: skip
MEANING: dict[Verdict, str] = {
    "same": "same stdout, stderr and exit status",
    "varies": "two starts under the system's linker differ already",
    "different": "the image differs",
    "crashed": "the image died by a signal, the program does not",
    "plain way": "the image was built but did not start by itself",
    "refused": "spidl refuses an image of it, with a reason",
    "error": "spidl could not link it",
    "timeout": "the image did not end in time, the program does",
    "no answer": "the program does not end in time under the system's linker either",
    "skipped": "not for a survey (tests/survey/programs.py), or no program for this kernel",
}
COMPARED: tuple[Verdict, ...] = ("same", "different", "crashed", "plain way", "error", "timeout")
SECONDS = 10.0
MARK = "SURVEY_RUN"


@dataclass(frozen=True)
class Result:
    """What was found about one program; ``detail`` shows both outcomes where they differ."""

    program: str
    verdict: Verdict
    argument: str = ""
    code: str = ""
    detail: str = ""
    seconds: float = 0


class Surveyor:
    """Looks at one program after the other in one scratch folder."""

    def __init__(self, folder: Path, layout: Layout, options: tuple[str, ...] = ()) -> None:
        self.scratch = folder / "scratch"
        self.images = Images(folder / "images", options)
        self.images.folder.mkdir(parents=True)
        self.layout: Layout = layout
        self.mark = uuid.uuid4().hex
        keep = ("PATH", "LANG", "USER", "LOGNAME", "SHELL")
        self.env = {name: os.environ[name] for name in keep if name in os.environ}
        self.env |= {"HOME": str(self.scratch), "TERM": "dumb", MARK: self.mark}

    def look(self, candidate: Candidate) -> Result:
        name, started = str(candidate.path), time.monotonic()
        if candidate.skipped is not None:
            return Result(name, "skipped", detail=candidate.skipped)
        try:
            result = self._look(candidate.path)
        except OSError as error:
            result = Result(name, "error", detail=str(error))
        finally:
            kill_marked(self.mark)
            self.images.trim(0)
        return Result(**{**asdict(result), "seconds": round(time.monotonic() - started, 3)})

    def _look(self, path: Path) -> Result:
        name = str(path)
        try:
            argument, oracles = self._oracle(path)
        except Timeout:
            return Result(name, "no answer")
        except OSError as error:  # such as x32 on a kernel without it
            return Result(name, "skipped", detail=f"does not start here: {error.strerror}")
        try:
            image = self.images.get(Path(os.path.realpath(path)), self.layout, self.env)
        except BuildFailed as failure:
            said = failure.result.stderr.decode(errors="replace").strip()
            verdict: Verdict = "refused" if failure.refused else "error"
            return Result(name, verdict, argument, failure.code or "no-code", said[:2000])
        except Timeout:
            return Result(name, "error", argument, "no-code", "spidl build did not end in time")
        try:
            outcome = self._start(path, argument, image)
            if outcome not in oracles:
                # A rare variation of the program's own?  Ask it again before blaming the image.
                oracles += [self._start(path, argument) for _ in range(2)]
        except Timeout:
            return Result(name, "timeout", argument)
        if outcome.crashed and not any(oracle.crashed for oracle in oracles):
            return Result(name, "crashed", argument, describe_status(outcome.status), str(outcome))
        if any(oracle != oracles[0] for oracle in oracles):
            return Result(name, "varies", argument)
        if outcome != oracles[0]:
            detail = f"== system's linker: {oracles[0]}\n== image: {outcome}"
            return Result(name, "different", argument, detail=detail)
        return self._is_used(path, argument, image)

    def _oracle(self, path: Path) -> tuple[str, list[Outcome]]:
        argument = "--version"
        first = self._start(path, argument)
        if first.status != 0 and not first.stdout and not first.stderr:
            argument = "--help"
            first = self._start(path, argument)
        return argument, [first, self._start(path, argument)]

    def _is_used(self, path: Path, argument: str, image: Path) -> Result:
        """An image that always takes the plain way is the same too, and worth nothing."""
        with contextlib.suppress(Timeout):
            verbose = self._start(path, argument, image, {"SPIDL_VERBOSE": "1"})
            for line in verbose.stderr.splitlines():
                if line.startswith(PLAIN_WAY):
                    reason = line.removeprefix(PLAIN_WAY).decode(errors="replace").strip()
                    return Result(str(path), "plain way", argument, detail=reason)
        return Result(str(path), "same", argument)

    def _start(
        self,
        path: Path,
        argument: str,
        image: Path | None = None,
        extra: dict[str, str] | None = None,
    ) -> Outcome:
        empty(self.scratch)
        return run(
            [str(path), argument],
            executable=image,
            cwd=self.scratch,
            stdin=None,
            env={**self.env, **(extra or {})},
            timeout=SECONDS,
        )


def kill_marked(mark: str) -> None:
    """Kill what a surveyed program left behind: processes whose environment holds our mark."""
    wanted = f"{MARK}={mark}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (place / "environ").read_bytes().split(b"\0"):
                os.kill(int(place.name), signal.SIGKILL)


_surveyor: Surveyor


def _begin(folder: str, layout: Layout, options: tuple[str, ...]) -> None:
    global _surveyor
    _surveyor = Surveyor(Path(tempfile.mkdtemp(dir=folder)), layout, options)


def _look(candidate: Candidate) -> Result:
    return _surveyor.look(candidate)


def show_progress(done: int, of: int, program: str, counts: Counter[str]) -> None:
    """One line on the terminal, over the last one."""
    shown = ", ".join(f"{kind} {count}" for kind, count in counts.most_common())
    line = f"{done}/{of} {Path(program).name}: {shown}"
    print(f"\r\033[K{line[:110]}", end="", file=sys.stderr, flush=True)


def survey(
    chosen: Sequence[Candidate], layout: Layout, jobs: int, options: tuple[str, ...] = ()
) -> list[Result]:
    """Look at all of them in a pool of processes; prints one progress line on a terminal."""
    results: list[Result] = []
    counts: Counter[str] = Counter()
    folder = tempfile.mkdtemp(prefix="spidl-survey-")
    live = sys.stderr.isatty()
    try:
        with multiprocessing.Pool(jobs, _begin, (folder, layout, options)) as pool:
            for result in pool.imap_unordered(_look, chosen):
                results.append(result)
                counts[result.verdict] += 1
                if live:
                    show_progress(len(results), len(chosen), result.program, counts)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if live:
            print("\r\033[K", end="", file=sys.stderr)
    return sorted(results, key=lambda result: result.program)


def report(results: Sequence[Result]) -> tuple[str, float, bool]:
    """The table, the share (0 to 1) that is the same of what could be compared, and whether an
    image crashed."""
    counts = Counter(result.verdict for result in results)
    compared = sum(counts[verdict] for verdict in COMPARED)
    share = counts["same"] / compared if compared else 1.0
    lines = []
    for result in results:
        if result.verdict in ("same", "varies", "skipped", "no answer"):
            continue
        headline = " ".join(filter(None, (result.program, result.argument, result.code)))
        lines.append(f"{result.verdict}: {headline}")
        shown = 30 if result.verdict in ("different", "crashed") else 4
        lines += [f"    {line}" for line in result.detail.splitlines()[:shown]]
    lines += ["", f"{'verdict':<12}{'programs':>9}  meaning"]
    for verdict, meaning in MEANING.items():
        if counts[verdict]:
            lines.append(f"{verdict:<12}{counts[verdict]:>9}  {meaning}")
    refusals = Counter(result.code for result in results if result.verdict in ("refused", "error"))
    lines += [f"  {count} x {code}" for code, count in refusals.most_common()]
    lines.append(f"{counts['same']} of {compared} compared are the same: {share:.2%}")
    return "\n".join(lines), share, counts["crashed"] > 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.survey", description=__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="names that match")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every result there")
    parser.add_argument("--layout", choices=("shared", "copy"), default="shared")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--config", metavar="FILE", help="settings to build the images with")
    parser.add_argument(
        "folder", nargs="*", type=Path, default=list(FOLDERS), help="default: /usr/bin /usr/sbin"
    )
    options = parser.parse_args(arguments)
    chosen = candidates(options.folder, options.only)
    settings = () if options.config is None else (f"--config={options.config}",)
    results = survey(chosen, options.layout, options.jobs, settings)
    text, share, crashed = report(results)
    print(text)
    if options.json is not None:
        content = {"share_same": share, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(content, indent=1))
    return 1 if share < 0.99 or crashed else 0


if __name__ == "__main__":
    sys.exit(main())
