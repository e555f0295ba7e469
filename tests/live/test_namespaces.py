"""Which libraries see each other, other file trees, and modules that have a say."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl import live
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.module import Module
from spidl.link.pipeline import Pipeline
from spidl.link.symbols import Definition, SymbolRequest
from spidl.testing import expect
from tests.needs import tool

Build = Callable[..., Path]
PROVIDER = "int answer(void) { return ANSWER; }"
USER = "int answer(void); int ask(void) { return answer(); }"


def _compile(folder: Path, name: str, text: str, *options: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    source, output = folder / f"{name}.c", folder / f"{name}.so"
    source.write_text(text)
    subprocess.run(
        [tool("gcc", "gcc"), "-shared", "-fPIC", f"-Wl,-soname,{name}.so", "-o", output, source,
         *options],
        check=True,
    )  # fmt: skip
    source.unlink()
    return output


def test_versions_side_by_side_are_bound_to_their_own(tmp_path: Path) -> None:
    loaded = []
    for number in (1, 2, 3):
        folder = tmp_path / str(number)
        provider = _compile(folder, "libanswer", PROVIDER, f"-DANSWER={number}")
        user = _compile(folder, "libask", USER, str(provider), f"-Wl,-rpath,{folder}")
        loaded.append(live.load(user))
    assert [library.function("ask")() for library in loaded] == [1, 2, 3]
    ctypes.CDLL(str(tmp_path / "3" / "libanswer.so"), ctypes.RTLD_GLOBAL)
    with live.load(tmp_path / "1" / "libask.so") as again:
        assert again.function("ask")() == 1  # what the process has globally is not seen
    for library in loaded:
        library.close()


def test_a_namespace_is_one_scope_the_earlier_first(tmp_path: Path) -> None:
    first = _compile(tmp_path / "1", "libone", PROVIDER, "-DANSWER=1")
    second = _compile(tmp_path / "2", "libtwo", PROVIDER, "-DANSWER=2")
    user = _compile(tmp_path, "libask", USER)
    namespace = live.Namespace("mine")
    with (
        live.load(first, namespace=namespace),
        live.load(second, namespace=namespace),
        live.load(user, namespace=namespace) as asks,
    ):
        assert asks.function("ask")() == 1
        assert [member.name for member in namespace.members] == [
            "libone.so", "libtwo.so", "libask.so",
        ]  # fmt: skip
    assert namespace.members == []


def test_loading_a_library_again_gives_the_same_one(tmp_path: Path) -> None:
    path = _compile(tmp_path, "libcount", "static int n; int count(void) { return ++n; }")
    namespace = live.Namespace()
    first = live.load(path, namespace=namespace)
    second = live.load(path, namespace=namespace)
    assert (first.function("count")(), second.function("count")()) == (1, 2)
    first.close()
    assert second.function("count")() == 3
    second.close()
    assert namespace.members == []


@pytest.mark.parametrize("place", ["cache", "default", "link"])
def test_libraries_come_from_another_tree(tmp_path: Path, place: str) -> None:
    root = tmp_path / "root"
    folder = {"cache": "opt/lib", "default": "usr/lib", "link": "real"}[place]
    provider = _compile(root / folder, "libanswer", PROVIDER, "-DANSWER=9")
    _compile(root / folder, "libask", USER, str(provider))
    (root / "etc").mkdir()
    if place == "cache":
        (root / "etc" / "ld.so.conf").write_text("/opt/lib\n")
        subprocess.run(["/sbin/ldconfig", "-X", "-r", root], check=True)
    elif place == "link":
        (root / "lib").symlink_to("/usr/../lib64")
        (root / "lib64").symlink_to("../../../real")  # above the root is the root
    with live.load("libask.so", root=str(root)) as library:
        assert library.function("ask")() == 9
        assert all(m.path.startswith(str(root)) for m in library.namespace.members)
    with expect("collect/not-found"):
        live.load("libz.so.1", root=str(root))


class Answers(Module):
    """Answers every request for ``answer`` with a function of the test's."""

    address: int

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.resolver(self.resolve)

    def resolve(self, request: SymbolRequest, dso: Dso, link: Link) -> Definition | None:
        if request.name != "answer":
            return None
        return Definition(None, request.name, self.address)


def test_a_module_binds_a_library_to_a_python_function(tmp_path: Path) -> None:
    user = _compile(tmp_path, "libask", USER)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 77)
    module = Answers(ctypes.cast(function, ctypes.c_void_p).value or 0)
    with live.load(user, modules=[module]) as asks:
        assert asks.function("ask")() == 77
        (found,) = [item for item in live.libraries() if item.path == str(user)]
        assert [b.module for b in found.bindings if b.name == "answer"] == ["answers"]
