"""Where libraries are found: RPATH, RUNPATH, LD_LIBRARY_PATH, LD_PRELOAD and what may change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .conftest import Same, Workshop
from .harness import Images, Layout, compare, spidl

OLD_TAGS, NEW_TAGS = "-Wl,--disable-new-dtags", "-Wl,--enable-new-dtags"


@pytest.fixture(scope="module")
def places(workshop: Workshop) -> Workshop:
    """libvalue.so in four folders, each with another value."""
    for value, folder in enumerate(("one", "two", "three", "deep/er")):
        path = f"{folder}/libvalue.so"
        workshop.library(path, "value.c", flags=(f"-DVALUE={value}", "-Wl,-h,libvalue.so"))
    workshop.library("libpreloaded.so", "preloaded.c")
    return workshop


def finder(places: Workshop, name: str, *flags: str) -> Path:
    return places.program(name, "value_main.c", "one/libvalue.so", flags=flags)


@pytest.mark.parametrize("tags", [OLD_TAGS, NEW_TAGS])
@pytest.mark.parametrize(
    "path", ["$ORIGIN/two", "${ORIGIN}/two:$ORIGIN/one", "/nowhere:$ORIGIN/two"]
)
def test_rpath(same: Same, places: Workshop, tags: str, path: str) -> None:
    name = f"rpath-{tags[6:13]}-{path.count(chr(58))}{len(path)}"
    program = finder(places, name, f"-Wl,-rpath,{path}", tags)
    same([str(program)], expect="value 1\n")


@pytest.mark.parametrize(("tags", "value"), [(OLD_TAGS, 1), (NEW_TAGS, 2)])
def test_library_path_is_between(same: Same, places: Workshop, tags: str, value: int) -> None:
    """RPATH comes before LD_LIBRARY_PATH, RUNPATH after it."""
    program = finder(places, f"between{value}", "-Wl,-rpath,$ORIGIN/two", tags)
    env = {**os.environ, "LD_LIBRARY_PATH": f"/nowhere:{places.folder / 'three'}"}
    same([str(program)], env=env, expect=f"value {value}\n")


def test_relative_library_path(same: Same, places: Workshop) -> None:
    """An empty entry means the current folder: such an image is good for this folder only."""
    program = finder(places, "relative", "-Wl,-rpath,/nowhere")
    env = {**os.environ, "LD_LIBRARY_PATH": str(places.folder / "deep/er")}
    same([str(program), "libvalue.so"], env=env, expect="value 3\nlibvalue.so: 3\n")


@pytest.mark.parametrize(("tags", "value"), [(OLD_TAGS, 1), (NEW_TAGS, 0)])
def test_rpath_is_inherited_runpath_is_not(
    same: Same, places: Workshop, tags: str, value: int
) -> None:
    """A library's need is searched in the RPATH of the program too, not in its RUNPATH."""
    folder = f"inherit{value}"
    flags = ("-DALSO_CALLS=value", "-Wl,-h,libmiddle.so")
    places.library(
        f"{folder}/libmiddle.so",
        "value.c",
        "one/libvalue.so",
        flags=(*flags, "-Wl,-rpath,/nowhere", NEW_TAGS) if value == 0 else (*flags, OLD_TAGS),
    )
    main = places.text(
        f"{folder}.c", '#include <stdio.h>\nint through(void);'
        'int main(void) { printf("value %d\\n", through()); }',
    )  # fmt: skip
    program = places.program(
        f"{folder}/program",
        str(main),
        f"{folder}/libmiddle.so",
        flags=(f"-Wl,-rpath,$ORIGIN:{places.folder / 'two'}", tags, "-Wl,--allow-shlib-undefined"),
    )
    env = dict(os.environ)
    if value == 0:
        env["LD_LIBRARY_PATH"] = str(places.folder / "one")
    same([str(program)], env=env, expect=f"value {value}\n")


def test_hardware_subfolder(same: Same, places: Workshop) -> None:
    """glibc-hwcaps/x86-64-v2 comes first where the CPU has it (2008 and later)."""
    path = "hw/glibc-hwcaps/x86-64-v2/libvalue.so"
    places.library(path, "value.c", flags=("-DVALUE=64", "-Wl,-h,libvalue.so"))
    places.library("hw/libvalue.so", "value.c", flags=("-DVALUE=63", "-Wl,-h,libvalue.so"))
    program = finder(places, "hwcaps", "-Wl,-rpath,$ORIGIN/hw")
    same([str(program)], expect="value 64\n")


def test_need_with_a_slash(same: Same, places: Workshop) -> None:
    """A library without DT_SONAME is needed under the path it was linked by."""
    path = places.folder / "libanonymous.so"
    places.library("libanonymous.so", "value.c", flags=("-DVALUE=8", f"-Wl,-h,{path}"))
    program = places.program("slash", "value_main.c", "libanonymous.so")
    same([str(program)], expect="value 8\n")


def test_library_of_the_same_name_is_loaded_once(same: Same, places: Workshop) -> None:
    program = finder(places, "same-name", "-Wl,-rpath,$ORIGIN/one")
    two = str(places.folder / "two/libvalue.so")
    outcome = same([str(program), "libvalue.so", two])
    assert outcome.stdout.startswith(b"value 0\nlibvalue.so: 0\n")


def preload(places: Workshop) -> dict[str, str]:
    return {**os.environ, "LD_PRELOAD": str(places.folder / "libpreloaded.so")}


def test_preload_at_link_time(same: Same, places: Workshop) -> None:
    program = finder(places, "preload", "-Wl,-rpath,$ORIGIN/one")
    same([str(program)], env=preload(places), expect="preloaded\nvalue 1000\n")


def test_preload_that_is_missing(places: Workshop, tmp_path: Path) -> None:
    """ld.so complains at every start and goes on; an image would be silent, so there is none."""
    program = finder(places, "preload-absent", "-Wl,-rpath,$ORIGIN/one")
    steering = {"LD_PRELOAD": "/nowhere/libabsent.so", "SPIDL_CACHE": str(tmp_path)}
    refused = spidl(["build", str(program), "-o", str(tmp_path / "image")], steering=steering)
    assert refused.status == 2
    assert b"spidl: refused[collect/no-preload]" in refused.stderr
    for complaints in (3, 2):  # of two times Python and of the program; then nothing is linked
        outcome = spidl(["run", str(program)], steering=steering)
        assert (outcome.status, outcome.stdout) == (0, b"value 0\n")
        assert outcome.stderr.count(b"cannot be preloaded") == complaints


class LinkedWithout(Images):
    """Images that were linked before the variable was set."""

    def get(self, program, layout, env, timeout=120):  # type: ignore[no-untyped-def]
        return super().get(program, layout, {}, timeout)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("LD_PRELOAD", "preloaded\nvalue 1000\n"), ("LD_LIBRARY_PATH", "value 2\n")],
)
def test_variable_set_at_start_only(
    layout: Layout, tmp_path: Path, places: Workshop, variable: str, expected: str
) -> None:
    """The image does not know the variable: it takes the plain way, which does."""
    program = finder(places, f"late-{variable}", "-Wl,-rpath,$ORIGIN/one", NEW_TAGS)
    env = {**preload(places), "LD_LIBRARY_PATH": str(places.folder / "three")}
    del env["LD_PRELOAD" if variable != "LD_PRELOAD" else "LD_LIBRARY_PATH"]
    compare(
        [str(program)],
        env=env,
        layout=layout,
        images=LinkedWithout(tmp_path),
        expect=expected,
        image_is_used=False,
    )
