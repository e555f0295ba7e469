"""Real work of programs with many libraries or plug-ins, under filters that kill.

    python3 -m tests.survey.filtered_work [NAME ...]

The same as tests/programs/test_filtered_work.py, which runs the small ones, for the whole list.
A program that is not installed is left out with a word.  The exit status is 1 for a defect.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..programs.filtered_work import SMALL, Filtered
from ..programs.filtering import SYSTEM_PATH, Done, do, stopped
from ..programs.harness import BuildFailed, Timeout, assert_same
from .filtered_programs import BIG


def look(work: Filtered, folder: Path, cache: Path) -> tuple[bool, str]:
    """(whether it is fine, what to say)."""
    name = work.commands[0][0]
    program = shutil.which(name, path=SYSTEM_PATH)
    if program is None:
        return True, f"{work.name}: not installed (package {work.package})"
    path = Path(os.path.realpath(program))
    note = ""
    strict = replace(work, settings={"unknown": "refuse", **work.settings})
    try:
        try:
            done = do(strict, path, folder, {"SPIDL_CACHE": str(cache)})
        except BuildFailed as failure:
            if failure.code != "seccomp/unknown":
                return False, f"{work.name}: {failure}"
            note = ", with calls of unknown number"
            work = replace(work, settings={**work.settings, "unknown": "deny"})
            done = do(work, path, folder, {"SPIDL_CACHE": str(cache)})
    except (BuildFailed, Timeout) as failure:
        return False, f"{work.name}: {failure}"
    wrong = list(_wrong(work, done))
    numbers = f"{len(done.allowed)} allowed, {len(done.seen.own)} traced{note}"
    return not wrong, "\n    ".join([f"{work.name}: {numbers}", *wrong])


def _wrong(work: Filtered, done: Done) -> Sequence[str]:
    found = []
    for words, before, after in zip(work.commands, done.plain, done.filtered, strict=True):
        if stopped(after) and not stopped(before):
            found.append(f"stopped: {after.stderr.decode(errors='replace')[-500:]}")
        try:
            assert_same(before, after, words)
        except AssertionError as difference:
            found.append(str(difference))
    if done.beyond:
        found.append(f"traced and not allowed: {' '.join(sorted(done.beyond))}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.survey.filtered_work", description=__doc__)
    parser.add_argument("name", nargs="*", help="which; default: all")
    options = parser.parse_args(arguments)
    is_fine = True
    cache = os.environ.get("SPIDL_CACHE")
    with tempfile.TemporaryDirectory(prefix="spidl-filtered-") as name:
        for work in (*BIG, *SMALL):
            if options.name and work.name not in options.name:
                continue
            folder = Path(name) / work.name
            folder.mkdir()
            fine, said = look(work, folder, Path(cache or f"{name}/cache"))
            is_fine = is_fine and fine
            print(f"{'' if fine else 'DEFECT '}{said}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
