"""Building the libraries of these tests, and running scripts in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from spidl.link.module import Module
from spidl.live import library
from spidl.live.commit import Commit
from spidl.live.kept import key_of
from spidl.live.namespace import Namespace
from spidl.live.replay import Replay
from tests.needs import tool

SOURCES = Path(__file__).parent / "src"
Build = Callable[..., Path]
Script = Callable[..., str]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """``build(source, *options, name=...)`` compiles a shared object into the test's folder."""

    def make(source: str, *options: str, name: str | None = None) -> Path:
        stem = name or Path(source).stem
        output = tmp_path / f"lib{stem}.so"
        compiler = tool("g++" if source.endswith(".cc") else "gcc", "g++")
        subprocess.run(
            [compiler, "-g", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{output.name}",
             "-Wl,-rpath,$ORIGIN", f"-L{tmp_path}", "-o", output, SOURCES / source, *options],
            check=True,
        )  # fmt: skip
        return output

    return make


@pytest.fixture(params=["anew", "kept"])
def each_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test runs twice: with loads that are linked, and with loads that were kept."""
    if request.param == "anew":
        monkeypatch.setattr(library, "find", lambda *_: None)
        return
    load = library._load

    def again(name: str, namespace: Namespace, modules: Sequence[str | Module]) -> Commit:
        if modules or key_of(name, namespace) is None:
            return load(name, namespace, modules)
        time.sleep(0.03)  # what was built this very moment is not kept
        for _ in range(2):  # the first may open something of the host list
            load(name, Namespace(shared=namespace.process.names), modules).undo()
        replayed = load(name, namespace, modules)
        assert isinstance(replayed, Replay)
        return replayed

    monkeypatch.setattr(library, "_load", again)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """``script(text, *arguments)`` runs Python in a new process and gives what it printed."""

    def run(text: str, *arguments: object, error: bool = False, **variables: str) -> str:
        result = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(text), *map(str, arguments)],
            capture_output=True, text=True, timeout=300, env={**os.environ, **variables},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stderr if error else result.stdout

    return run
