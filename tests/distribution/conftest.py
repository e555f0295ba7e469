"""Distributions in small: ELF files of a few bytes, and Debian packages of them."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import pytest

from spidl.testing import build_dso

ROOT = Path(__file__).resolve().parents[2]
Compression = Literal["gz", "xz", ""]


@pytest.fixture(autouse=True, scope="module")
def _environment_stays() -> Iterator[None]:
    """Dask sets variables that steer malloc, and with it the linker, for what runs later."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _children_find_the_analysers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def elf(soname: str, *needed: str) -> bytes:
    """A library with one function."""
    return build_dso(soname, {"f": b"\xc3"}, needed=needed)


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """``tree(name, {path: content})`` makes a folder."""

    def make(name: str, files: Mapping[str, bytes]) -> Path:
        for path, content in files.items():
            target = tmp_path / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return tmp_path / name

    return make


def _ar(members: Mapping[str, bytes]) -> bytes:
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
        parts.append(content + b"\n" * (len(content) % 2))
    return b"".join(parts)


def _tar(files: Mapping[str, bytes], compression: Compression) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def deb(package: str, files: Mapping[str, bytes], compression: Compression = "xz") -> bytes:
    """A Debian package (deb(5)) of these files."""
    control = f"Source: other\nPackage: {package}\nVersion: 1\n".encode()
    suffix = f".{compression}" if compression else ""
    return _ar(
        {
            "debian-binary": b"2.0\n",
            f"control.tar{suffix}": _tar({"./control": control}, compression),
            f"data.tar{suffix}": _tar({f".{path}": c for path, c in files.items()}, compression),
        }
    )
