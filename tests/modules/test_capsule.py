"""Settings of capsules: what they mean, and what is said about wrong ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from spidl.diagnostics import LinkError
from spidl.modules.capsule import Capsules
from spidl.modules.capsule.settings import Capsule, read_capsules
from spidl.registry import Configuration, load_modules


def failure(tables: Mapping[str, Mapping[str, Any]], take: tuple[str, ...] = ()) -> LinkError:
    with pytest.raises(LinkError) as caught:
        read_capsules(tables, take)
    assert caught.value.diagnostic.help
    return caught.value


def said(tables: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """The code, and the place."""
    error = failure(tables)
    return error.code, str(error.diagnostic.place)


def test_a_whole_capsule(tmp_path: Path) -> None:
    (capsule,) = read_capsules({"gl": {
        "root": str(tmp_path), "libraries": ["libGL.so.1", "libEGL.so.1"], "exports": ["gl*"],
        "shared": ["libX11*"], "private": ["libstdc++.so.6"], "opens": True,
    }})  # fmt: skip
    assert capsule == Capsule("gl", str(tmp_path), ("libGL.so.1", "libEGL.so.1"), ("gl*",),
                              ("libX11*",), ("libstdc++.so.6",), True)  # fmt: skip


def test_what_is_shared(tmp_path: Path) -> None:
    """libc with its parts and the unwinder always, libstdc++ by its versions, the rest never."""
    (capsule,) = read_capsules({"gl": {"root": str(tmp_path), "libraries": ["libGL.so.1"]}})
    assert capsule.exports == ("*",)
    assert capsule.opens is None
    for name in ("libc.so.6", "libm.so.6", "libpthread.so.0", "libgcc_s.so.1"):
        assert capsule.shares(name) is True
    assert capsule.shares("libstdc++.so.6") is None
    assert capsule.shares("libz.so.1") is False
    chosen = Capsule("gl", "/", ("libGL.so.1",), shared=("libX*",), private=("libXi.so.6",))
    assert chosen.shares("libX11.so.6") is True
    assert chosen.shares("libXi.so.6") is False


def test_a_root_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("other")
    (tmp_path / "other").symlink_to(tmp_path / "there")
    tables = {"gl": {"root": f"{tmp_path}/link/../link", "libraries": ["libGL.so.1"]}}
    (capsule,) = read_capsules(tables)
    assert capsule.root == str(tmp_path / "there")
    links = [f"{tmp_path}/link", f"{tmp_path}/other"]
    assert list(capsule.links) == links * 2


def test_the_short_form(tmp_path: Path) -> None:
    """One capsule a root, named after its folder; names that are taken get a number."""
    one, two = tmp_path / "a" / "host", tmp_path / "b" / "host"
    one.mkdir(parents=True)
    two.mkdir(parents=True)
    take = (f"liba.so={one}", f"libb.so,libc.so={two}", f"libd.so={one}", "libe.so=/")
    found = {c.name: (c.root, c.libraries) for c in read_capsules({}, take)}
    assert found == {
        "host": (str(one), ("liba.so", "libd.so")),
        "host-1": (str(two), ("libb.so", "libc.so")),
        "root": ("/", ("libe.so",)),
    }
    configured = {"host": {"root": str(two), "libraries": ["libz.so"]}}
    assert [c.name for c in read_capsules(configured, take[:1])] == ["host", "host-1"]


@pytest.mark.parametrize("text", ["libz.so.1", "=/", "liba.so,=/", ""])
def test_short_forms_that_are_none(text: str) -> None:
    error = failure({}, (text,))
    assert error.code == "config/bad-option"
    assert str(error.diagnostic.place) == "command line"


def test_errors_name_the_capsule(tmp_path: Path) -> None:
    good: dict[str, Any] = {"root": str(tmp_path), "libraries": ["libz.so.1"]}
    place = "spidl.toml: modules.capsule.capsules.gl"
    assert said({"gl": {**good, "export": ["x"]}}) == ("config/unknown-key", place)
    for key, value in (("root", 1), ("libraries", "libz.so.1"), ("libraries", [1]),
                       ("exports", [""]), ("opens", "yes"), ("shared", True)):  # fmt: skip
        assert said({"gl": {**good, key: value}}) == ("config/wrong-type", place)
    for key in good:
        rest = {k: v for k, v in good.items() if k != key}
        assert said({"gl": rest}) == ("config/missing-setting", place)
        assert said({"gl": {**rest, key: type(good[key])()}}) == ("config/missing-setting", place)
    for root in (tmp_path / "none", "relative", __file__):
        assert said({"gl": {**good, "root": str(root)}}) == ("capsule/no-root", place)
    assert said({"a": good, "gl": good}) == ("capsule/library-twice", place)


def test_a_relative_root_is_said_to_be_one() -> None:
    error = failure({"gl": {"root": ".", "libraries": ["libz.so.1"]}})
    assert error.diagnostic.message == "the root . is no absolute path"


def test_through_the_registry(tmp_path: Path) -> None:
    """The module's own settings are checked by type like every module's."""
    settings: dict[str, Any] = {"capsules": {"gl": {"root": str(tmp_path), "libraries": ["a"]}}}
    pipeline = ("preload", "sysv", "gnu", "capsule")
    module = load_modules(Configuration(pipeline, {"capsule": settings}))[-1]
    assert isinstance(module, Capsules)
    assert module.capsules == settings["capsules"]
    wrong: dict[str, Any]
    for wrong in ({"capsules": []}, {"take": "x"}, {"capsules": {"gl": 1}}):
        with pytest.raises(LinkError) as caught:
            load_modules(Configuration(pipeline, {"capsule": wrong}))
        assert caught.value.code == "config/wrong-type"
