"""Test suites of Debian packages, with their programs under filters that kill.

    python3 -m tests.survey.filtered_suites [--only REGEX] [--json FILE] [SUITE ...]

Each suite runs twice: with links to the installed programs, then with filtered images in their
place.  What passes without a filter must pass with one, and nothing may be stopped.  A test that
differs is repeated both ways before it counts.  The exit status is 1 for a defect.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..programs import filtering
from ..programs.harness import BuildFailed
from . import filtered_packages as packages
from .filtered_packages import Done, Suite
from .filtered_sources import Unavailable

JOBS = 2


@dataclass
class Report:
    """What a suite showed."""

    suite: str
    passed: int = 0
    """Without a filter; tests, or their parts where a suite counts those."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Tests that were not run, and why."""
    stopped: dict[str, str] = field(default_factory=dict)
    """Tests in which a filter stopped something, and what was said."""
    lost: dict[str, list[str]] = field(default_factory=dict)
    """By test: what passes without a filter only."""
    programs: dict[str, int] = field(default_factory=dict)
    """Filtered programs and the number of calls that each may make."""
    seconds: float = 0

    @property
    def is_fine(self) -> bool:
        return self.passed > 0 and not self.stopped and not self.lost


def survey(suite: Suite, only: str, folder: Path) -> Report:
    """Run a suite both ways in ``folder``.  Raises `Unavailable`, `BuildFailed`."""
    began = time.monotonic()
    report = Report(suite.name)
    suite.prepare(folder)
    plain, filtered = folder / "plain", folder / "filtered"
    for ways in (plain, filtered):
        ways.mkdir()
    steering = {"SPIDL_CACHE": str(folder / "cache"), **suite.steering}
    programs = suite.programs()

    def build(name: str) -> int:
        program = programs[name]
        (plain / name).symlink_to(program.path)
        filtering.build(program.path, filtered / name, program.settings, steering=steering)
        return len(filtering.allowed(filtered / name))

    with ThreadPoolExecutor(JOBS) as pool:
        report.programs = dict(zip(programs, pool.map(build, programs), strict=True))
    tests = {}
    for test, left_out in suite.tests().items():
        if left_out:
            report.left_out[test] = left_out
        elif re.search(only, test):
            tests[test] = test
    with ThreadPoolExecutor(JOBS) as pool:
        results = pool.map(lambda test: _both(suite, test, plain, filtered), tests)
        for test, (before, after) in zip(tests, results, strict=True):
            report.passed += len(before.passed)
            if after.said:
                report.stopped[test] = after.said
            if missing := before.passed - after.passed:
                report.lost[test] = sorted(missing)
    report.seconds = round(time.monotonic() - began, 1)
    return report


def _both(suite: Suite, test: str, plain: Path, filtered: Path) -> tuple[Done, Done]:
    before, after = suite.run(test, plain), suite.run(test, filtered)
    if before.passed - after.passed:
        again = suite.run(test, plain), suite.run(test, filtered)
        before = Done(before.passed & again[0].passed)
        after = Done(after.passed | again[1].passed, after.said or again[1].said)
    return before, after


SUITES: Mapping[str, Callable[[], Suite]] = {
    "zlib": packages.Zlib,
    "coreutils": packages.Coreutils,
    "git": packages.Git,
    "perl": packages.Perl,
}


def show(report: Report) -> str:
    sizes = sorted(report.programs.values())
    lines = [
        f"{report.suite}: {report.passed} passed without a filter, "
        f"{sum(map(len, report.lost.values()))} of them not with one; "
        f"{len(report.stopped)} tests in which something was stopped; "
        f"{len(report.programs)} programs with {sizes[0]} to {sizes[-1]} calls; "
        f"{report.seconds:.0f} s"
    ]
    reasons: dict[str, int] = {}
    for reason in report.left_out.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    lines += [f"  {count} left out: {reason}" for reason, count in sorted(reasons.items())]
    lines += [f"  stopped in {test}: {said}" for test, said in report.stopped.items()]
    lines += [f"  lost in {test}: {', '.join(which[:8])}" for test, which in report.lost.items()]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.survey.filtered_suites", description=__doc__)
    parser.add_argument("--only", default="", metavar="REGEX", help="tests that match")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument("suite", nargs="*", choices=[*SUITES, []], help="default: all")
    options = parser.parse_args(arguments)
    reports, is_fine = [], True
    for name in options.suite or SUITES:
        with tempfile.TemporaryDirectory(prefix="spidl-suite-") as folder:
            os.chmod(folder, 0o755)
            try:
                report = survey(SUITES[name](), options.only, Path(folder))
            except (Unavailable, BuildFailed) as error:
                print(f"{name}: {error}", flush=True)
                is_fine = False
                continue
        reports.append(report)
        is_fine = is_fine and report.is_fine
        print(show(report), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(report) for report in reports], indent=1))
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
