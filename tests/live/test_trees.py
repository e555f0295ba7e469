"""Libraries of another file tree: RPATH, which is handed on, and $LIB."""

from __future__ import annotations

import shutil
import subprocess
from ctypes import c_char_p, c_int, c_void_p
from pathlib import Path

import pytest

from spidl import live
from spidl.testing import expect
from tests.live.conftest import SOURCES
from tests.live.test_opening import NOW, Opener
from tests.needs import tool

LIB = "lib/x86_64-linux-gnu"


def _compile(output: Path, source: str, *options: str) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [tool("gcc", "gcc"), "-shared", "-fPIC", f"-Wl,-soname,{output.name}", "-o", output,
         source, "-Wl,--no-as-needed", *options],
        check=True,
    )  # fmt: skip


def _tree(tmp_path: Path, path: str, *options: str) -> Path:
    """libtop.so, which has ``path``, needs libopener.so, which needs libplug.so beside it and is
    found on nobody's path but libtop's."""
    root, own = tmp_path / "root", tmp_path / "root" / "opt" / LIB
    answer = str(SOURCES / "answer.c")
    _compile(own / "libplug.so", answer, "-DANSWER=6")
    _compile(own / "liblate.so", answer, "-DANSWER=7")
    opener = str(SOURCES / "opener.c")
    _compile(own / "libopener.so", opener, "-DOWN=5", str(own / "libplug.so"))
    top = ["-DANSWER=4", str(own / "libopener.so"), f"-Wl,-rpath-link,{own}"]
    _compile(root / "usr/lib/libtop.so", answer, *top, f"-Wl,-rpath,{path}", *options)
    return root


@pytest.mark.parametrize("path", ["/opt/$LIB", "/opt/${LIB}", f"$ORIGIN/../../opt/{LIB}"])
def test_rpath_is_handed_on(tmp_path: Path, path: str) -> None:
    """To what its owner needs, to what that needs, and to what that opens."""
    root = _tree(tmp_path, path, "-Wl,--disable-new-dtags")
    with live.load("libtop.so", root=str(root)) as top:
        names = [member.name for member in top.namespace.members]
        assert names == ["libtop.so", "libopener.so", "libplug.so"]
        opener = Opener(top.function)
        handle = opener.opens(b"liblate.so", NOW)
        assert opener.says() is None
        assert opener.call(handle, b"answer") == 7
        assert opener.closes(handle) == 0
    assert top.namespace.members == []


def test_runpath_is_not(tmp_path: Path) -> None:
    root = _tree(tmp_path, "/opt/$LIB", "-Wl,--enable-new-dtags")
    with expect("collect/not-found") as expected:
        live.load("libtop.so", root=str(root))
    assert "libplug.so" in expected.diagnostic.message


def test_the_caller_and_not_the_tree_has_the_path(tmp_path: Path) -> None:
    """Two libraries open one name, and each finds what is beside it."""
    root = tmp_path / "root"
    opener = str(SOURCES / "opener.c")
    for number in (1, 2):
        folder = root / str(number)
        _compile(folder / f"libopener{number}.so", opener, f"-DOWN={number}",
                 "-Wl,-rpath,$ORIGIN")  # fmt: skip
        late = folder / "late.so"
        _compile(late, str(SOURCES / "answer.c"), f"-DANSWER={number}", "-Wl,-soname,other.so")
    for number in (2, 1):
        namespace = live.Namespace(root=str(root))
        with live.load(f"/{number}/libopener{number}.so", namespace=namespace) as library:
            opens = library.function("opens", c_void_p, [c_char_p, c_int])
            finds = library.function("finds", c_void_p, [c_void_p, c_char_p])
            handle = opens(b"late.so", NOW)
            found = namespace.members[-1]
            assert found.path == str(root / str(number) / "late.so")
            assert found.start <= finds(handle, b"answer") < found.end
    shutil.rmtree(root)
