"""Capsules by the command line: short form, what is said of a link, errors, changes of a root."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.needs import tool

from .capsules import Capsuled, Tree, toml
from .conftest import Workshop
from .harness import Outcome, run, spidl
from .starts import Place, told, value
from .test_tools import commands, functions, gdb, libraries, running


@pytest.fixture(scope="module")
def tree(workshop: Workshop) -> Tree:
    tree = Tree(workshop.folder / "host")
    dep = tree.library("libvalue.so", "capsule_dep.c", flags=("-DVALUE=2", "-DALSO=only_in_new"))
    tree.library("libcap.so", "capsule_lib.c", flags=(str(dep),))
    tree.cache()
    workshop.library("libvalue.so", "capsule_dep.c", flags=("-DVALUE=1",))
    return tree


@pytest.fixture(scope="module")
def program(workshop: Workshop, tree: Tree) -> Path:
    flags = (f"{tree.libraries}/libcap.so", "-Wl,--allow-shlib-undefined")
    return workshop.program("program", "capsule_main.c", "libvalue.so", flags=flags)


@pytest.fixture
def options(tree: Tree) -> list[str]:
    return ["--with", "capsule", "--capsule", f"libcap.so={tree.root}"]


def said(result: Outcome) -> dict[str, object]:
    found: dict[str, object] = json.loads(result.stdout)
    return found


# -- the short form --------------------------------------------------------------------------------


def test_the_short_form_builds(program: Path, options: list[str], tmp_path: Path) -> None:
    result = spidl(["build", *options, "-o", str(tmp_path / "image"), str(program)])
    assert result.status == 0, result
    outcome = run([str(program), "versions"], executable=tmp_path / "image")
    assert b"program has 1 1 1\ncapsule has 222\n" in outcome.stdout


def test_needs_the_module(program: Path, options: list[str]) -> None:
    result = spidl(["tree", *options[2:], str(program)])
    assert (result.status, b"error[config/unknown-module]" in result.stderr) == (2, True)


def test_started_by_the_launcher(tmp_path: Path) -> None:
    """It belongs to the key: the same words find the kept link, others make another."""
    place, tree = Place(tmp_path), Tree(tmp_path / "host")
    value(tree.libraries, 2)
    other = Tree(tmp_path / "other")
    value(other.libraries, 3)
    own = ["--with=capsule", f"--capsule=libvalue.so={tree.root}"]
    assert place.start(options=own) == told(2, "image")
    assert place.never(options=own) == told(2, "image")
    apart = ["--with", "capsule", "--capsule", f"libvalue.so={tree.root}"]
    assert place.never(options=apart) == told(2, "image")
    setting = ["--with=capsule", f"--set=capsule.take+=libvalue.so={tree.root}"]
    assert place.never(options=setting) == told(2, "image")
    assert len(place.images()) == 1
    assert place.start() == told(1, "image")
    theirs = ["--with=capsule", f"--capsule=libvalue.so={other.root}"]
    assert place.start(options=theirs) == told(3, "image")
    assert len(place.images()) == 3
    kept = run(place.words("cache", "list"), env=place.environment()).stdout.decode()
    assert f"--set=capsule.take+=libvalue.so={other.root}" in kept


# -- what is said of a link ------------------------------------------------------------------------


def test_tree_names_namespaces(program: Path, options: list[str], tree: Tree) -> None:
    text = spidl(["tree", *options, str(program)]).stdout.decode()
    assert f"├── host:libcap.so  {tree.libraries}/libcap.so  (its ld.so.cache in" in text
    assert f"host:libvalue.so  {tree.libraries}/libvalue.so" in text
    assert "not found" not in text
    objects = said(spidl(["tree", "--json", *options, str(program)]))["objects"]
    assert isinstance(objects, list)
    assert {o["path"] for o in objects if o["name"] == "libvalue.so"} == {
        str(program.parent / "libvalue.so"), str(tree.libraries / "libvalue.so"),
    }  # fmt: skip


def test_tree_finds_what_both_sides_have(program: Path, options: list[str]) -> None:
    """A name that the program knows is not missing where a capsule's library needs its own."""
    result = said(spidl(["tree", "--json", *options, str(program)]))
    objects = result["objects"]
    assert isinstance(objects, list)
    assert [o["missing"] for o in objects if o["missing"]] == []


def test_explain_says_who_binds_across(program: Path, options: list[str], tree: Tree) -> None:
    def bindings(symbol: str) -> dict[str, tuple[str, str]]:
        found = said(spidl(["explain", "--json", *options, str(program), symbol]))["bindings"]
        assert isinstance(found, list)
        return {b["asker"]: (b["provider"], b["namespace"]) for b in found}

    cap, ours = str(tree.libraries / "libcap.so"), str(program.parent / "libvalue.so")
    theirs = str(tree.libraries / "libvalue.so")
    assert bindings("cap_fork") == {str(program): (cap, "main")}
    assert bindings("value") == {str(program): (ours, "main"), cap: (theirs, "host")}
    assert bindings("cap_data")[cap] == (str(program), "host"), "the program has the copy"


def test_explain_tells_a_word_of_a_capsule(program: Path, options: list[str], tree: Tree) -> None:
    listing = run(["nm", "-D", str(tree.libraries / "libcap.so")]).stdout.decode()
    found = re.search(r"^(\w+) D cap_data_address$", listing, re.M)
    assert found is not None
    at = f"host:libcap.so+{int(found[1], 16):#x}"
    text = spidl(["explain", *options, str(program), "--at", at]).stdout.decode()
    assert f"= {at}" in text
    assert "by sysv in relocate of host:libcap.so" in text
    assert f"symbol cap_data, answered by {program}" in text
    missing = spidl(["explain", *options, str(program), "--at", "host:nothing+0"])
    assert b"its objects: program, libvalue.so, host:libcap.so" in missing.stderr


@pytest.mark.parametrize("opens", [False, True], ids=["listed", "opening"])
def test_gdb(workshop: Workshop, opens: bool) -> None:
    """A breakpoint in a capsule's library, frames across the border, files by their real paths."""
    tool("gdb", "gdb")
    tree = Tree(workshop.folder / "debugged-host")
    library = tree.library("libdebugged.so", "debugged_lib.c", flags=("-O0",))
    tree.cache()
    program = workshop.program("debugged", "debugged.c", flags=("-O0", str(library)))
    capsuled = Capsuled(workshop.folder)
    image = capsuled.build(program, {"host": tree.capsule("libdebugged.so", opens=opens)})
    with running(program, image) as pid:
        text = gdb(str(program), "-p", str(pid), *commands(
            "info sharedlibrary", "break library_step", "continue", "backtrace",
            "print value == value", "info symbol library_step", "detach"))  # fmt: skip
    assert libraries(text)["libdebugged.so"] == "Yes", text
    assert str(library) in text
    assert "Breakpoint 1, library_step (value=" in text
    assert functions(text)[:3] == ["library_step", "library_work", "program_work"], text
    assert f"library_step in section .text of {library}" in text


# -- errors ----------------------------------------------------------------------------------------


def test_errors_of_a_link(program: Path, tree: Tree, tmp_path: Path) -> None:
    other = Tree(tmp_path / "other")
    other.library("libother.so", "value.c", flags=("-DVALUE=5", "-Dvalue=cap_value"))
    other.cache()
    place = "spidl.toml: modules.capsule.capsules.host"

    def said_of(capsules: dict[str, dict[str, object]], target: Path = program) -> str:
        config = tmp_path / "spidl.toml"
        config.write_text(toml(capsules))
        result = spidl(["build", f"--config={config}", "-o", str(tmp_path / "image"), str(target)])
        assert result.status == 2, result
        assert not (tmp_path / "image").exists()
        assert b"= help: " in result.stderr
        return result.stderr.decode()

    text = said_of({"host": tree.capsule("libcap.so", "libnone.so.1")})
    assert "error[capsule/not-in-root]: the root of the capsule `host` has no libnone.so.1" in text
    assert f"--> {place}" in text
    assert f"searched in {tree.root}: its own folders" in text
    text = said_of({"host": tree.capsule("libcap.so", exports=["cap_*", "nobody_*"])})
    assert "error[capsule/no-export]: no library of the capsule `host` defines `nobody_*`" in text
    assert f"--> {place}" in text
    both = {"a": other.capsule("libother.so"), "host": tree.capsule("libcap.so")}
    text = said_of(both)
    assert "error[capsule/symbol-twice]: `cap_value` would come from the capsule `a`" in text
    assert f"--> {place}" in text
    text = said_of({"host": tree.capsule("libcap.so", exports=["cap_value"])})
    assert "error[relocate/undefined-symbol]: undefined symbol `cap_" in text
    loop = tree.libraries / "libloop.so"
    loop.symlink_to("libloop.so")
    text = said_of({"host": tree.capsule("libcap.so", "libloop.so")})
    assert "error[collect/link-loop]" in text
    assert f"--> {loop}" in text
    loop.unlink()


def test_narrowed_exports(program: Path, tree: Tree, tmp_path: Path) -> None:
    """What is not exported is not there, at start and for dlsym."""
    names = ["cap_value", "cap_data", "same_name"]
    outcome = Capsuled(tmp_path).run(
        [str(program), "looks", "libcap.so", *names],
        {"host": tree.capsule("libcap.so", exports=["cap_*"])},
    )
    lines = outcome.stdout.decode().splitlines()
    assert "cap_value: handle 1, default 1, same 1" in lines
    assert "same_name: handle 0, default 1, same 0" in lines


def test_a_need_that_only_the_program_has(tmp_path: Path, workshop: Workshop) -> None:
    tree = Tree(tmp_path / "host")
    tree.library("libneedsz.so", "value.c", flags=("-DVALUE=1", "-lz"))
    tree.cache()
    program = workshop.program("plain", "value_main.c", "libvalue.so")
    config = tmp_path / "spidl.toml"
    config.write_text(toml({"host": tree.capsule("libneedsz.so")}))
    result = spidl(["build", f"--config={config}", "-o", str(tmp_path / "image"), str(program)])
    assert b"error[collect/not-found]: libz.so.1 is needed and was not found" in result.stderr
    assert f"--> {tree.libraries}/libneedsz.so" in result.stderr.decode()


def test_a_program_without_glibc(tree: Tree, workshop: Workshop, tmp_path: Path) -> None:
    source = workshop.text("static.c", "int main(void) { return 0; }\n")
    program = workshop.program("static", str(source), flags=("-static-pie",))
    config = tmp_path / "spidl.toml"
    config.write_text(toml({"host": tree.capsule("libcap.so")}))
    result = spidl(["build", f"--config={config}", "-o", str(tmp_path / "image"), str(program)])
    assert result.status == 2
    assert b"error[capsule/no-search]: static is no program of glibc" in result.stderr


def test_a_version_that_no_libc_has(workshop: Workshop, tmp_path: Path) -> None:
    """A library of a newer system than any here: symbol, version and library are named."""
    script = workshop.text("future.map", "GLIBC_9.99 { global: future; local: *; };")
    flags = ("-DVALUE=1", "-Dvalue=future", "-nostdlib", "-Wl,-h,libc.so.6",
             f"-Wl,--version-script={script}")  # fmt: skip
    stub = workshop.library("stub/libc.so.6", "value.c", flags=flags)
    tree = Tree(tmp_path / "host")
    library = tree.library("libnew.so", "value.c", flags=("-DALSO_CALLS=future", str(stub)))
    tree.cache()
    config = tmp_path / "spidl.toml"
    config.write_text(toml({"host": tree.capsule("libnew.so")}))
    result = spidl(["build", f"--config={config}", "-o", str(tmp_path / "image"), "/bin/true"])
    text = result.stderr.decode()
    assert result.status == 2
    assert "error[capsule/libc]: `future` of libc.so.6 in version GLIBC_9.99 is wanted by" in text
    assert str(library) in text


# -- changes ---------------------------------------------------------------------------------------


def changed(place: Place, options: list[str], before: int, after: int) -> None:
    """An image that does not hold any more never runs, nor does the program without it."""
    assert place.start(options=options) == told(after, "image")
    assert place.never(options=options) == told(after, "image")


@pytest.mark.parametrize("what", ["library", "link", "folder-link", "root", "cache", "new"])
def test_a_root_that_changes(tmp_path: Path, what: str) -> None:
    """Each thing that the link went by: a file, links in the root and to it, its ld.so.cache, and a
    library that appears where it was looked for in vain."""
    place, tree = Place(tmp_path), Tree(tmp_path / "host-1")
    old, new = tree.root / "opt" / "old", tree.root / "opt" / "new"
    value(old, 2)
    value(new, 3)
    tree.libraries.mkdir(parents=True)
    library = tree.libraries / "libvalue.so"
    root = tree.root
    if what == "library":
        value(tree.libraries, 2)
    elif what == "link":
        library.symlink_to("/opt/old/libvalue.so")
    elif what == "folder-link":
        (tree.root / "opt" / "current").symlink_to("old")
        library.symlink_to("/opt/current/libvalue.so")
    elif what == "root":
        value(tree.libraries, 2)
        value(tmp_path / "host-2" / "lib" / "x86_64-linux-gnu", 3)
        root = tmp_path / "host"
        root.symlink_to("host-1")
    elif what == "cache":
        tree.cache("/opt/old")
    else:
        (tree.root / "usr" / "lib").mkdir(parents=True)
        value(tree.root / "usr" / "lib", 2)
    options = ["--with=capsule", f"--capsule=libvalue.so={root}"]
    assert place.start(options=options) == told(2, "image")
    assert place.never(options=options) == told(2, "image")
    if what == "library":
        os.rename(value(new, 3), library)
    elif what == "link":
        library.unlink()
        library.symlink_to("/opt/new/libvalue.so")
    elif what == "folder-link":
        (tree.root / "opt" / "next").symlink_to("new")
        os.rename(tree.root / "opt" / "next", tree.root / "opt" / "current")
    elif what == "root":
        (tmp_path / "next").symlink_to("host-2")
        os.rename(tmp_path / "next", root)
    elif what == "cache":
        tree.cache("/opt/new")
    else:
        os.rename(value(new, 3), library)
    changed(place, options, 2, 3)
