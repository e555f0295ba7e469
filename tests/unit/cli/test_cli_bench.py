"""spidl bench: three ways to start one program, interleaved."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_answers import Command

from spidl.cli.bench import Way, _check_images, _json, _text
from spidl.diagnostics import LinkError


def test_bench(command: Command, program: Path) -> None:
    answer = command("bench", "--runs", "4", program, "an argument")
    assert answer.status == 0
    assert answer.err == "", "no progress without a terminal"
    lines = answer.out.splitlines()
    assert lines[0] == f"{program} an argument: 4 runs, medians"
    ways = [line.split("  ")[0] for line in lines[2:]]
    assert ways == ["ld.so", "image, shared", "image, copied"]
    assert all(" times " in line for line in lines[3:])


def test_json(command: Command, program: Path) -> None:
    found = command("bench", "--json", "--runs", "3", program).json
    assert found["runs"] == 3
    plain, shared, copied = found["ways"]
    assert (plain["link_seconds"], plain["image_bytes"], plain["faster"]) == (None, None, 1.0)
    assert 0 < shared["image_bytes"] < copied["image_bytes"]
    assert all(len(way["seconds"]) == 3 and way["page_faults"] > 0 for way in found["ways"])


def test_ratio_is_pairwise() -> None:
    """A slow moment hits one round of all ways: the ratio of that round is still right."""
    base = Way("ld.so", "", times=[2.0, 20.0, 2.0, 200.0], faults=[9, 9, 9, 9])
    image = Way("image, shared", "", times=[1.0, 10.0, 1.0, 100.0], faults=[3, 5, 3, 3])
    found = _json(["x"], [base, image])["ways"]
    assert isinstance(found, list)
    assert found[1]["faster"] == 2.0
    assert found[1]["page_faults"] == 3
    assert " 2.00 times " in _text(["x"], [base, image])[3]


def script(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_plain_way_is_not_measured(tmp_path: Path) -> None:
    """Such an image would compare ld.so with ld.so."""
    plain = script(tmp_path, "plain", "echo 'spidl: plain way: a file changed' >&2")
    with pytest.raises(LinkError) as caught:
        _check_images([Way("ld.so", "/bin/true"), Way("image, shared", plain)], ["x"])
    assert caught.value.code == "bench/plain-way"
    assert "a file changed" in str(caught.value)


def test_different_end_is_not_measured(tmp_path: Path) -> None:
    failing = script(tmp_path, "failing", "exit 3")
    with pytest.raises(LinkError) as caught:
        _check_images([Way("ld.so", "/bin/true"), Way("image, shared", failing)], ["x"])
    assert caught.value.code == "bench/different"


@pytest.mark.parametrize("runs", ["0", "-1", "many", "1000000000"])
def test_bad_runs(command: Command, program: Path, runs: str) -> None:
    command("bench", f"--runs={runs}", program).failed("cli/usage")


def test_program_that_cannot_be_linked(command: Command, original: Path, tmp_path: Path) -> None:
    program = shutil.copy(original / "program", tmp_path)
    answer = command("bench", "--runs", "1", program).failed("collect/not-found")
    assert answer.out == ""


def test_reader_that_leaves(program: Path) -> None:
    """A closed pipe ends the command quietly; a full disk is an error with a code."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    call = [sys.executable, "-m", "spidl", "explain", "--json", str(program)]
    with subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    with open("/dev/full", "wb") as full:
        result = subprocess.run(call, stdout=full, stderr=subprocess.PIPE, env=environment,
                                check=False)  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.startswith(b"spidl: error[cli/cannot-write]: ")
