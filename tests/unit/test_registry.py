"""From names, files and settings to modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from spidl import registry
from spidl.registry import Configuration, available, load_modules, read_configuration
from spidl.testing import expect

MODULE = """
from __future__ import annotations
from spidl.api import Dso, Module, Pipeline

class Knobs(Module):
    size: int
    title: str = "none"
    names: list[str] | None = None
    fast: bool = False
    ratio: float = 1.0

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pass
"""
TWO = MODULE + "\nclass" + MODULE.partition("class")[2].replace("Knobs", "Others")


@pytest.fixture
def knobs(tmp_path: Path) -> str:
    path = tmp_path / "knobs.py"
    path.write_text(MODULE)
    return str(path)


def settings(**values: object) -> Configuration:
    return Configuration((), {"knobs": values}, "spidl.toml")


def test_fields_are_settings(knobs: str) -> None:
    (module,) = load_modules(settings(size=3, names=["a", "b"]), [knobs])
    assert (module.name, module.size, module.title, module.names) == (  # type: ignore[attr-defined]
        "knobs", 3, "none", ["a", "b"],
    )  # fmt: skip


def test_the_default_pipeline_in_order() -> None:
    assert [m.name for m in load_modules(Configuration())] == ["preload", "sysv", "gnu", "musl"]


@pytest.mark.parametrize(
    ("values", "code", "says"),
    [
        ({}, "config/missing-setting", "needs the setting `size`"),
        ({"size": 1, "sise": 2}, "config/unknown-key", "no setting `sise`"),
        ({"size": "1"}, "config/wrong-type", "`modules.knobs.size` must be int"),
        ({"size": True}, "config/wrong-type", "must be int"),
        ({"size": 1, "names": "a"}, "config/wrong-type", "modules.knobs.names"),
        ({"size": 1, "names": ["a", 1]}, "config/wrong-type", "modules.knobs.names"),
        ({"size": 1, "fast": 1}, "config/wrong-type", "modules.knobs.fast"),
    ],
)
def test_bad_settings(knobs: str, values: dict[str, object], code: str, says: str) -> None:
    with expect(code) as expected:
        load_modules(settings(**values), [knobs])
    assert says in expected.diagnostic.message
    assert expected.diagnostic.place is not None
    assert expected.diagnostic.place.file == "spidl.toml"


def test_settings_of_a_module_that_is_not_there() -> None:
    with expect("config/unknown-module") as expected:
        load_modules(Configuration(("sysv",), {"gnu": {}}))
    assert expected.diagnostic.notes == ("the pipeline is: sysv",)


def test_an_unknown_name() -> None:
    with expect("register/unknown-module") as expected:
        load_modules(Configuration(("sysv", "nosuch")))
    assert "sysv" in expected.diagnostic.notes[0]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("syntax error", "register/broken-module"),
        ("1 / 0", "register/broken-module"),
        ("x = 1", "register/no-class"),
        (TWO, "register/no-class"),
    ],
    ids=["syntax", "raises", "no class", "two classes"],
)
def test_a_file_that_is_no_module(tmp_path: Path, content: str, code: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    with expect(code):
        load_modules(Configuration(()), [str(path)])


def test_a_class_may_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "two.py"
    path.write_text(TWO)
    (module,) = load_modules(Configuration((), {"others": {"size": 1}}), [f"{path}:Others"])
    assert module.name == "others"


def test_no_such_file() -> None:
    with expect("register/no-file"):
        load_modules(Configuration(()), ["/nowhere/mine.py"])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("pipeline = 1", "config/wrong-type"),
        ("pipeline = [1]", "config/wrong-type"),
        ("modules = 1", "config/wrong-type"),
        ("[modules]\ngnu = 1", "config/wrong-type"),
        ("pipelin = []", "config/unknown-key"),
        ("pipeline = [", "config/not-toml"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, code: str) -> None:
    path = tmp_path / "spidl.toml"
    path.write_text(content)
    with expect(code) as expected:
        read_configuration(str(path))
    assert expected.diagnostic.place is not None
    assert expected.diagnostic.place.file == str(path)


def test_an_unreadable_file(tmp_path: Path) -> None:
    with expect("config/unreadable"):
        read_configuration(str(tmp_path / "none.toml"))


def test_the_users_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert read_configuration(None) == Configuration()
    path = tmp_path / "spidl" / "spidl.toml"
    path.parent.mkdir()
    path.write_text('pipeline = ["sysv"]\n[modules.sysv]\n')
    assert read_configuration(None) == Configuration(("sysv",), {"sysv": {}}, str(path))


def test_a_module_file_lies_beside_the_settings(tmp_path: Path, knobs: str) -> None:
    path = tmp_path / "spidl.toml"
    path.write_text('pipeline = ["sysv", "knobs.py:Knobs"]\n[modules.knobs]\nsize = 2\n')
    configuration = read_configuration(str(path))
    assert configuration.pipeline == ("sysv", f"{knobs}:Knobs")
    assert [m.name for m in load_modules(configuration)] == ["sysv", "knobs"]


def test_own_modules_are_the_entry_points() -> None:
    """The short way to Spidl's own modules leads where their entry points do."""
    points = {name: tuple(point.value.split(":")) for name, point in available().items()}
    assert {name: points.get(name) for name in registry._OWN} == registry._OWN
    own = {name for name, (file, _) in points.items() if file.startswith("spidl.modules.")}
    assert own == set(registry._OWN)
