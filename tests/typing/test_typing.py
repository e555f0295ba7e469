"""Phases, facts and settings are typed: mypy finds the pass with the wrong result."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
_EXPECTED = re.compile(r"#\s*error: \[(.+)\]")
_REPORTED = re.compile(r"^(.+?):(\d+): error: .*\[([a-z-]+)\]$")


def mypy(*paths: Path, cache: Path) -> list[str]:
    """mypy's lines, with the project's settings and nothing of its own in the tree."""
    output, errors, _ = api.run(
        ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(cache),
         "--no-pretty", "--hide-error-context", "--no-error-summary", *map(str, paths)]
    )  # fmt: skip
    assert not errors
    return [str(line) for line in output.splitlines()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def test_wrong_results_are_found_and_nothing_else(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    file = HERE / "wrong_results.py"
    expected = {
        (number, found[1])
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if (found := _EXPECTED.search(line))
    }
    lines = mypy(file, cache=cache)
    reported = {
        (int(found[2]), found[3])
        for line in lines
        if (found := _REPORTED.match(line)) and Path(found[1]).name == file.name
    }
    assert reported == expected, "\n".join(lines)


def test_the_examples_are_clean(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    examples = sorted((ROOT / "examples" / "modules").glob("*.py"))
    assert examples
    lines = mypy(*examples, cache=cache)
    assert [line for line in lines if "examples/" in line and ": error:" in line] == []
