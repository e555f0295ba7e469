"""What selects an image besides the program: another machine or another Spidl, another key."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from spidl import session
from spidl.cache import host

REQUEST = session.Request("/bin/true", environment={})
CPU = (
    "processor\t: 0\nmodel name\t: One\nstepping\t: 1\ncpu MHz\t\t: 1\nflags\t\t: fpu sse\n\n"
    "processor\t: 1\nmodel name\t: One\n"
)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("One\nstepping", "Two\nstepping", False),
        ("stepping\t: 1", "stepping\t: 2", False),
        ("fpu sse", "fpu sse avx2", False),
        ("MHz\t\t: 1", "MHz\t\t: 2", True),  # it changes all the time
    ],
)
def test_another_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, old: str, new: str, same: bool
) -> None:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(host, "_CPUINFO", str(path))
    keys = []
    for text in (CPU, CPU.replace(old, new)):
        path.write_text(text)
        keys.append(session.entry_key(REQUEST))
    assert (keys[0] == keys[1]) is same


def test_this_processor() -> None:
    found = [line.partition("\t")[0] for line in host.processor().splitlines()]
    assert "flags" in found
    assert len(found) == len(set(found))


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("targets/exec/boot.elf", False),
        ("link/link.py", False),
        ("modules/gnu/search.py", False),
        ("cli/words.py", True),
    ],
)
def test_another_spidl(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, same: bool
) -> None:
    package = tmp_path / "spidl"
    shutil.copytree(Path(session.__file__).parent, package)
    assert (package / "targets/exec/boot.elf").exists()
    monkeypatch.setattr(session, "own_files", partial(host.own_files, str(package)))
    before = session.entry_key(REQUEST)
    assert session.entry_key(REQUEST) == before
    with (package / name).open("ab") as file:
        file.write(b"\n")
    assert (session.entry_key(REQUEST) == before) is same
