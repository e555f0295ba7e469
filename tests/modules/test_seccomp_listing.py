"""Patterns find what glob finds."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import numpy as np
import pytest

from spidl.api import name_hash
from spidl.modules.seccomp.listing import Listing
from spidl.modules.seccomp.names import Among, hashes_of, rows_among


@pytest.mark.parametrize(
    "pattern",
    ["lib*.so*", "*", "**/*.so*", "*/deep", "a/../lib1.so", "lib1.so", "gone", "gone/*", "a/[!b]*",
     ".hidden*", "lib?.so", "a/**/deep/*", "lib1.so/*", "broken"],
)  # fmt: skip
def test_as_glob(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "a" / "b" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep").mkdir()
    for name in ("lib1.so", "lib2.so.3", "lob.so", ".hidden.so", "a/b/x.so", "a/b/deep/.y.so",
                 "a/b/deep/y.so.1", "a/c.so"):  # fmt: skip
        (tmp_path / name).touch()
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "there").symlink_to("a")
    found = Listing().glob(f"{tmp_path}/{pattern}")
    assert found == sorted(set(glob.glob(f"{tmp_path}/{pattern}", recursive=True)))
    below = Listing().below(str(tmp_path), pattern) if "/" not in pattern else []
    if below:
        wanted = glob.glob(f"{tmp_path}/**/{pattern}", recursive=True)
        assert below == sorted(set(wanted))


def test_real_paths(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").touch()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "other").symlink_to("file")
    listing = Listing()
    for name in ("link/file", "link/other", "real/file", "link/..", "link", "gone"):
        path = f"{tmp_path}/{name}"
        assert listing.realpath(path) == os.path.realpath(path)


def test_names_among_others() -> None:
    many = hashes_of([f"name{number}" for number in range(40_000)])
    assert int(many[7]) == name_hash(b"name7")
    wanted = np.sort(hashes_of(["name3", "name39999", "other"]))
    assert rows_among(many, wanted).tolist() == [3, 39_999]
    assert Among(np.sort(many)).rows(hashes_of(["x", "name5"])).tolist() == [1]
    assert rows_among(many, hashes_of([])).tolist() == []
