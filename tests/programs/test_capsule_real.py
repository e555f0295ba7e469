"""Real programs with real libraries from a root: copies of this system's, with all they need.

Other systems' libraries are in tests/survey/capsules.py; what is shown here is that whole trees of
real libraries work from a capsule.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from spidl.modules.capsule.settings import SHARED
from tests.needs import tool

from .capsules import Capsuled, Tree, toml
from .harness import run, spidl


def copied(program: str, folder: Path, private: bool) -> Tree:
    """A root with copies of a program's libraries, but for libc's and, maybe, libstdc++."""
    result = spidl(["tree", "--json", program])
    tree = Tree(folder)
    tree.libraries.mkdir(parents=True)
    for found in json.loads(result.stdout)["objects"][1:]:
        if found["name"] not in SHARED and (private or not found["name"].startswith("libstdc++")):
            shutil.copy(found["path"], tree.libraries / found["name"])
    tree.cache()
    return tree


@pytest.mark.parametrize("opens", [False, True], ids=["listed", "opening"])
@pytest.mark.parametrize("private", [[], ["libstdc++.so.6"]], ids=["one-libstdc++", "two"])
def test_bsdtar(tmp_path: Path, private: list[str], opens: bool) -> None:
    """libarchive with libxml2, ICU and five compressors: archives are written and read."""
    program = tool("bsdtar", "libarchive-tools")
    tree = copied(program, tmp_path / "root", private=bool(private))
    capsules = {"host": tree.capsule("libarchive.so.13", opens=opens, private=private)}
    config = tmp_path / "spidl.toml"
    config.write_text(toml(capsules))
    listed = json.loads(spidl(["tree", "--json", f"--config={config}", program]).stdout)
    inside = [o for o in listed["objects"] if o["path"].startswith(f"{tree.root}/")]
    assert len(inside) > 8
    assert any(o["name"] == "libstdc++.so.6" for o in inside) == bool(private)
    work = tmp_path / "work"
    (work / "files").mkdir(parents=True)
    for number in range(20):
        (work / "files" / f"{number}.txt").write_text(f"{number}\n" * 1000)
    capsuled = Capsuled(tmp_path / "images")
    for form in ("--gzip", "--xz", "--bzip2", "--zstd", "--lz4", "--format=zip", "--format=xar"):
        archive = work / f"{form.strip('-')}.archive"
        capsuled.run([program, "-c", form, "-f", str(archive), "files"], capsules, cwd=work)
        names = run([program, "-t", "-f", str(archive)], cwd=work)
        again = capsuled.run([program, "-t", "-f", str(archive)], capsules, cwd=work)
        assert sorted(names.stdout.split()) == sorted(again.stdout.split())
        assert len(names.stdout.split()) == 21
    with tarfile.open(work / "gzip.archive") as archive_file:
        member = archive_file.extractfile("files/7.txt")
        assert member is not None
        assert member.read() == b"7\n" * 1000


def test_python_with_a_capsules_libraries(tmp_path: Path) -> None:
    """The system's own interpreter exports its symbols and opens its extensions: zlib is needed at
    its start, libsqlite3 by an extension module, which the program opens."""
    program = "/usr/bin/python3"
    tree = Tree(tmp_path / "root")
    tree.libraries.mkdir(parents=True)
    for name in ("libz.so.1", "libsqlite3.so.0", "libexpat.so.1"):
        found = Path("/usr/lib/x86_64-linux-gnu") / name
        if not found.exists():
            found = Path("/lib/x86_64-linux-gnu") / name
        shutil.copy(found, tree.libraries / name)
    tree.cache()
    script = """
import sqlite3, zlib, pyexpat
base = sqlite3.connect(":memory:")
base.create_function("double", 1, lambda number: 2 * number)
base.execute("create table numbers (n)")
base.executemany("insert into numbers values (?)", ((n,) for n in range(1000)))
print(base.execute("select sum(double(n)) from numbers").fetchone())
print(zlib.decompress(zlib.compress(b"text" * 1000)) == b"text" * 1000)
files = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
print(*sorted(f.split("/")[-1] for f in files if "ROOT/" in f))
""".replace("ROOT", str(tree.root))
    capsules = {"host": tree.capsule("libz.so.1", "libsqlite3.so.0")}
    outcome = Capsuled(tmp_path / "images").run([program, "-I", "-c", script], capsules)
    assert outcome.stdout == b"(999000,)\nTrue\nlibsqlite3.so.0 libz.so.1\n"
