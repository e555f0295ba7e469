"""A kept link is of the Spidl that made it: which files tell."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import spidl
from spidl.cache.host import own_files, own_inputs

PACKAGE = Path(spidl.__file__).parent


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package in a source tree."""
    copy = tmp_path / "src/spidl"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pyproject.toml").touch()
    return copy


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("targets/exec/boot.elf", False),
        ("link/link.py", False),
        ("modules/gnu/search.py", False),
        ("cli/words.py", True),
    ],
)
def test_a_file_that_makes_images(package: Path, name: str, same: bool) -> None:
    before = own_files(str(package))
    with (package / name).open("ab") as file:
        file.write(b"\n")
    assert (own_files(str(package)) == before) is same


def test_a_source_tree_is_told_by_its_stamp(package: Path) -> None:
    (stamp,) = map(Path, own_inputs(str(package)))
    before = stamp.stat()
    assert own_inputs(str(package)) == [str(stamp)]
    assert stamp.stat() == before
    (package / "link/link.py").touch()
    assert own_inputs(str(package)) == [str(stamp)]
    assert stamp.stat().st_ino != before.st_ino


def test_a_source_tree_that_cannot_be_written_to(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(package / "bin")
    (package / "bin").touch()
    assert str(package / "link/link.py") in own_inputs(str(package))


def test_an_installed_package_is_told_by_few_files(package: Path) -> None:
    (package.parents[1] / "pyproject.toml").unlink()
    few = own_inputs(str(package))
    assert {Path(path).name for path in few} == {"__init__.py", "boot.elf"}
    assert all(map(Path.exists, map(Path, few)))
