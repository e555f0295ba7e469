"""Reading Debian packages, damaged ones included."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from spidl.diagnostics import LinkError
from spidl.distribution.debs import read_package
from tests.distribution.conftest import Compression, deb, elf


@pytest.mark.parametrize("compression", ["xz", "gz", ""])
def test_units_of_a_package(tmp_path: Path, compression: Compression) -> None:
    files = {"/usr/lib/liba.so.1": elf("liba.so.1"), "/usr/share/doc/text": b"x" * 100}
    path = tmp_path / "renamed.deb"
    path.write_bytes(deb("liba1", files, compression))
    spool = tmp_path / "spool"
    spool.mkdir()
    units = read_package(str(path), str(spool))
    assert [(u.package, u.path, u.soname) for u in units] == [
        ("liba1", "/usr/lib/liba.so.1", "liba.so.1")
    ]
    assert Path(units[0].content).read_bytes() == elf("liba.so.1")
    assert len(os.listdir(spool)) == 1


def test_any_damage_is_one_error(tmp_path: Path) -> None:
    whole = deb("liba1", {"/usr/lib/liba.so.1": elf("liba.so.1") * 20})
    spool = tmp_path / "spool"
    spool.mkdir()
    path = tmp_path / "x.deb"
    numbers = random.Random(1)
    codes = []
    for _ in range(200):
        data = bytearray(whole[: numbers.choice([len(whole), numbers.randrange(len(whole))])])
        for _ in range(3):
            data[numbers.randrange(len(data))] = numbers.randrange(256)
        path.write_bytes(data)
        try:
            read_package(str(path), str(spool))
        except LinkError as error:
            codes.append(error.code)
    assert set(codes) == {"distribution/package"}
    assert len(codes) > 100


def test_zstd_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(deb("x", {}, "").replace(b"data.tar        ", b"data.tar.zst    "))
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(LinkError) as caught:
        read_package(str(path), str(tmp_path))
    assert caught.value.code == "distribution/zstd"
    assert "zstandard" in (caught.value.diagnostic.help or "")


def test_a_spool_without_room(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(deb("x", {"/a": elf("a")}))
    with pytest.raises(LinkError) as caught:
        read_package(str(path), str(tmp_path / "nowhere"))
    assert caught.value.code == "distribution/spool"
