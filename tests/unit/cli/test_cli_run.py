"""`spidl run`: which words are Spidl's and which the program's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "src"


@pytest.mark.parametrize(
    ("own", "given"),
    [
        ([], []),
        ([], ["--", "a"]),
        ([], ["a", "--", "b"]),
        (["--"], ["--", "a", "--"]),
        (["--layout", "copy"], ["--layout", "--help", "-h"]),
        (["--layout=copy", "--"], ["--json", "--", "--"]),
    ],
)
def test_the_program_gets_every_word_behind_its_name(
    tmp_path: Path, own: list[str], given: list[str]
) -> None:
    shown = ["/usr/bin/printf", "%s\\n", *given]
    command = [sys.executable, "-m", "spidl", "run", *own, *shown]
    env = {"PYTHONPATH": str(SOURCE), "SPIDL_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == (given or [""])
