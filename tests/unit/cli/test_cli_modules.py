"""spidl modules: what is installed, and the pipeline in use."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from cli_answers import Command


def test_modules(command: Command) -> None:
    answer = command("modules")
    assert answer.status == 0
    assert answer.err == ""
    lines = answer.out.splitlines()
    assert lines[0] == "pipeline (the default): preload, sysv, gnu, musl"
    assert lines[2].split()[:2] == ["ORDER", "MODULE"]
    assert [line.split()[:2] for line in lines[3:7]] == [
        ["1", "preload"], ["2", "sysv"], ["3", "gnu"], ["4", "musl"],
    ]  # fmt: skip
    assert "Loads, relocates and starts ELF objects." in lines[4]


def test_json(command: Command) -> None:
    found = command("modules", "--json").json
    modules = {one["name"]: one for one in found["modules"]}
    assert found["pipeline"] == ["preload", "sysv", "gnu", "musl"]
    assert modules["sysv"]["main"] == [
        "collect", "load", "post-load", "relocate", "protect", "start",
    ]  # fmt: skip
    assert modules["sysv"]["roles"] == ["finds libraries", "exports symbols"]
    assert modules["preload"]["weak"] == ["collect"]
    assert modules["gnu"]["after"] == ["sysv"]
    assert modules["gnu"]["distribution"].startswith("spidl ")


def test_pipeline_of_a_file(command: Command, tmp_path: Path) -> None:
    """A module file is listed at its place; what is installed but not enabled comes last."""
    (tmp_path / "mine.py").write_text(
        "from spidl.api import START, Module\nclass Mine(Module):\n"
        '    """Does nothing well."""\n'
        "    def register(self, dso, pipeline):\n        pipeline.weak(START, print)\n"
    )
    config = tmp_path / "spidl.toml"
    config.write_text(f'pipeline = ["sysv", "gnu", "{tmp_path}/mine.py"]\n')
    found = command("modules", "--json", "--config", config).json
    order = [(one["position"], one["name"]) for one in found["modules"]]
    assert order[:3] == [(1, "sysv"), (2, "gnu"), (3, "mine")]
    assert (None, "preload") in order
    mine = found["modules"][2]
    assert (mine["summary"], mine["weak"]) == ("Does nothing well.", ["start"])


@pytest.mark.parametrize(
    ("text", "code"),
    [('pipeline = ["sysv", "typo"]', "register/unknown-module"),
     ("[modules.nonsense]\nx = 1", "config/unknown-module")],
)  # fmt: skip
def test_broken_pipeline(command: Command, tmp_path: Path, text: str, code: str) -> None:
    """The list helps to repair the pipeline: it comes first, then the error."""
    config = tmp_path / "spidl.toml"
    config.write_text(text)
    answer = command("modules", "--config", config).failed(code)
    assert "Loads, relocates and starts ELF objects." in answer.out
    answer = command("modules", "--json", "--config", config).failed(code)
    assert answer.json["error"]["code"] == code


def test_config_that_cannot_be_read(command: Command, tmp_path: Path) -> None:
    command("modules", "--config", tmp_path / "none.toml").failed("config/unreadable")
    (tmp_path / "bad.toml").write_text("= 3")
    command("modules", "--config", tmp_path / "bad.toml").failed("config/not-toml")
    command("modules", "--nonsense").failed("cli/usage")
    command("modules", "extra").failed("cli/usage")


def test_installed_but_broken(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """One package with a fault must not hide the others."""
    points = {
        "bad": EntryPoint("bad", "no.such.package:Thing", "spidl.modules"),
        "odd": EntryPoint("odd", "os:getcwd", "spidl.modules"),
        "sysv": EntryPoint("sysv", "spidl.modules.sysv:SystemV", "spidl.modules"),
    }
    monkeypatch.setattr("spidl.cli.modules.available", lambda: points)
    answer = command("modules")
    assert answer.status == 0
    assert "cannot be loaded: ModuleNotFoundError: No module named 'no'" in answer.out
    assert "cannot be loaded: TypeError: os:getcwd is not a spidl.api.Module" in answer.out
    assert "Loads, relocates" in answer.out
