"""spidl tree: what is needed, where it was found, why; and what is missing."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from cli_answers import Command

from spidl.cli.draw import draw, write_drawing
from spidl.cli.tree import Node
from spidl.diagnostics import LinkError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def broken(original: Path, tmp_path: Path) -> Path:
    """A copy of the program whose second library is gone."""
    for path in original.iterdir():
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "libsecond.so").unlink()
    return tmp_path / "program"


def test_tree(command: Command, program: Path) -> None:
    answer = command("tree", program)
    assert answer.status == 0
    assert answer.err == ""
    lines = answer.out.splitlines()
    folder = program.parent
    assert lines[0] == f"program  {program}"
    assert lines[1] == f"├── libfirst.so  {folder}/libfirst.so  (RUNPATH of program)"
    assert lines[2].startswith("│       also libsecond.so")
    assert lines[3] == f"├── libsecond.so  {folder}/libsecond.so  (RUNPATH of program)"
    assert sum("── libc.so.6 " in line for line in lines) == 1
    assert sum("── libsecond.so " in line for line in lines) == 1
    assert "\x1b" not in answer.out


def test_json(command: Command, program: Path) -> None:
    found = command("tree", "--json", program).json
    folder = program.parent
    objects = {one["name"]: one for one in found["objects"]}
    assert found["program"] == str(program)
    assert found["error"] is None
    assert objects["libfirst.so"]["loader"] == str(program)
    assert objects["libfirst.so"]["found"] == "RUNPATH of program"
    assert objects["libfirst.so"]["needs"][0] == f"{folder}/libsecond.so"
    assert not any(one["missing"] for one in found["objects"])


def test_search_order(
    command: Command, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LD_LIBRARY_PATH comes before RUNPATH, and LD_PRELOAD before all needs."""
    shutil.copy(original / "libfirst.so", tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("LD_PRELOAD", str(original / "libsecond.so"))
    lines = command("tree", original / "program").out.splitlines()
    assert "libsecond.so" in lines[1]
    assert "(LD_PRELOAD, the path " in lines[1]
    assert any(line.endswith(f"{tmp_path}/libfirst.so  (LD_LIBRARY_PATH)") for line in lines)


def test_missing_library(command: Command, broken: Path) -> None:
    answer = command("tree", broken).failed("collect/not-found")
    lines = answer.out.splitlines()
    assert lines[1].startswith("├── libfirst.so  ")
    below = lines[2].lstrip("│ ├└─")
    assert below.startswith("libsecond.so  not found  (searched: RUNPATH of libfirst.so, ")
    assert any(line.startswith("├── libsecond.so  not found") for line in lines)
    assert any("libc.so.6" in line for line in lines), "the search went on behind it"
    assert "libsecond.so is needed and was not found" in answer.err


def test_missing_library_json(command: Command, broken: Path) -> None:
    answer = command("tree", "--json", broken).failed("collect/not-found")
    missing = {one["name"]: one["missing"] for one in answer.json["objects"]}
    assert [m["name"] for m in missing["program"]] == ["libsecond.so"]
    assert [m["code"] for m in missing["libfirst.so"]] == ["collect/not-found"]
    assert answer.json["error"]["code"] == "collect/not-found"


def test_library_that_is_no_library(command: Command, broken: Path) -> None:
    (broken.parent / "libsecond.so").write_text("hello")
    answer = command("tree", broken).failed("parse/not-elf")
    assert f"libsecond.so  {broken.parent}/libsecond.so  not an ELF file" in answer.out


def test_drawing(command: Command, program: Path, tmp_path: Path) -> None:
    target = tmp_path / "libs.svg"
    answer = command("tree", program, "-o", target)
    assert answer.status == 0
    assert answer.out == f"{target}: program with 4 libraries\n"
    root = ElementTree.parse(target).getroot()
    names = [text.text for text in root.iter(f"{SVG}text") if text.get("class") == "name"]
    assert names == ["program", "libfirst.so", "libsecond.so", "libc.so.6", "ld-linux-x86-64.so.2"]
    assert len(list(root.iter(f"{SVG}path"))) == len(names) - 1
    assert target.stat().st_mode & 0o400
    assert list(tmp_path.glob(".spidl-*")) == []


def test_missing_library_is_drawn(command: Command, broken: Path, tmp_path: Path) -> None:
    target = tmp_path / "libs.svg"
    command("tree", broken, "-o", target).failed("collect/not-found")
    root = ElementTree.parse(target).getroot()
    bad = [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "name bad"]
    assert bad == ["libsecond.so", "libsecond.so"]


def test_drawn_text_is_escaped() -> None:
    """A file may be called anything: no markup, no control character gets through."""
    child = Node('<script>"&\x1b[31m\udcff', "/a<b", "DT_NEEDED", "R&D", also=["<x>"])
    document = draw(Node("p", "/p", "the program", "", children=[child]), "Libraries of <p>")
    root = ElementTree.fromstring(document)
    names = [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "name"]
    assert names == ["p", '<script>"&\\x1b[31m\\udcff']
    assert not list(root.iter(f"{SVG}script"))


@pytest.mark.parametrize(
    ("output", "code"),
    [("libs.png", "cli/not-svg"), ("no/folder/libs.svg", "cli/cannot-write"),
     ("taken.svg", "cli/cannot-write")],
)  # fmt: skip
def test_bad_output(
    command: Command, program: Path, tmp_path: Path, output: str, code: str
) -> None:
    (tmp_path / "taken.svg").mkdir()
    command("tree", program, "-o", tmp_path / output).failed(code)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken.svg"]


def test_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.svg"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(LinkError) as caught:
        write_drawing(str(target), "new")
    assert caught.value.code == "cli/cannot-write"
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
