"""What may change between link and start, and what must never become an image."""

from __future__ import annotations

import os
import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.needs import missing

from .conftest import Workshop
from .harness import Images, Layout, Outcome, compare, run, spidl


@pytest.fixture
def place(tmp_path: Path) -> Workshop:
    """A folder for one test alone: it changes its programs."""
    return Workshop(tmp_path / "place")


def library(place: Workshop, value: int, folder: str = ".", *flags: str) -> Path:
    path = f"{folder}/libvalue.so"
    return place.library(path, "value.c", flags=(f"-DVALUE={value}", "-Wl,-h,libvalue.so", *flags))


def program(place: Workshop, path: str = "$ORIGIN") -> Path:
    library(place, 1)
    flags = (f"-Wl,-rpath,{path}",)
    return place.program("program", "value_main.c", "libvalue.so", flags=flags)


def after(
    change: Callable[[], object],
    main: Path,
    tmp_path: Path,
    layout: Layout,
    expect: str | None,
    status: int = 0,
) -> Outcome:
    """Link, let ``change`` happen, start: the image must notice and take the plain way."""
    images = Images(tmp_path)
    used = compare([str(main)], images=images, layout=layout)
    assert used.stdout == b"value 1\n"
    change()
    return compare(
        [str(main)],
        images=images,
        layout=layout,
        expect=expect,
        status=status,
        image_is_used=False,
    )


def test_library_is_replaced(place: Workshop, tmp_path: Path, layout: Layout) -> None:
    main = program(place)

    def change() -> None:
        (place.folder / "libvalue.so").unlink()
        library(place, 2)

    after(change, main, tmp_path, layout, "value 2\n")


def test_library_is_rewritten_in_place(place: Workshop, tmp_path: Path, layout: Layout) -> None:
    """Same inode, size and mtime: only the change time tells."""
    main, new = program(place), library(place, 3, "new")
    old = place.folder / "libvalue.so"

    def change() -> None:
        before = old.stat()
        content = new.read_bytes()
        assert len(content) == before.st_size
        with old.open("r+b") as file:
            file.write(content)
        os.utime(old, ns=(before.st_atime_ns, before.st_mtime_ns))

    after(change, main, tmp_path, layout, "value 3\n")


def test_library_is_removed(place: Workshop, tmp_path: Path, layout: Layout) -> None:
    main = program(place)
    outcome = after((place.folder / "libvalue.so").unlink, main, tmp_path, layout, "", status=127)
    assert b"cannot open shared object file" in outcome.stderr


def test_program_is_rebuilt(place: Workshop, tmp_path: Path, layout: Layout) -> None:
    main = program(place)

    def change() -> None:
        main.unlink()
        source = place.text("new.c", '#include <stdio.h>\nint main(void) { puts("new"); }')
        place.program("program", str(source))

    after(change, main, tmp_path, layout, "new\n")


def test_library_appears_earlier_in_the_path(
    place: Workshop, tmp_path: Path, layout: Layout
) -> None:
    """A file that was absent at the link would be found first now."""
    main = program(place, "$ORIGIN/first:$ORIGIN")
    (place.folder / "first").mkdir()
    after(lambda: library(place, 4, "first"), main, tmp_path, layout, "value 4\n")


def test_folder_of_the_path_appears(place: Workshop, tmp_path: Path, layout: Layout) -> None:
    main = program(place, "$ORIGIN/first:$ORIGIN")
    after(lambda: library(place, 5, "first"), main, tmp_path, layout, "value 5\n")


@pytest.mark.parametrize(
    "variable",
    [
        "LD_BIND_NOW=1",
        "LD_LIBRARY_PATH=/nowhere",
        "LD_BIND_NOT=1",
        "LD_DYNAMIC_WEAK=1",
        "GLIBC_TUNABLES=glibc.malloc.perturb=85",
        "MALLOC_ARENA_MAX=1",
        "LD_DEBUG_OUTPUT=/nowhere/x",
    ],
)
def test_variable_that_the_link_did_not_see(
    place: Workshop, tmp_path: Path, layout: Layout, variable: str
) -> None:
    main, images = program(place), Images(tmp_path)
    image = images.get(main, layout, {})
    name, _, value = variable.partition("=")
    env = {**os.environ, name: value}
    oracle, result = run([str(main)], env=env), run([str(main)], executable=image, env=env)
    assert result == oracle
    verbose = run([str(main)], executable=image, env={**env, "SPIDL_VERBOSE": "1"})
    assert b"spidl: plain way:" in verbose.stderr


def test_variable_that_the_link_saw_is_gone(
    place: Workshop, tmp_path: Path, layout: Layout
) -> None:
    main, other = program(place), library(place, 6, "other")
    linked = {**os.environ, "LD_LIBRARY_PATH": str(other.parent), "PATH": os.defpath}
    image = Images(tmp_path).get(main, layout, linked)
    env = {k: v for k, v in linked.items() if k != "LD_LIBRARY_PATH"}
    assert run([str(main)], executable=image, env=env) == run([str(main)], env=env)
    verbose = run([str(main)], executable=image, env={**env, "SPIDL_VERBOSE": "1"})
    assert b"spidl: plain way:" in verbose.stderr


def refused(main: Path, tmp_path: Path) -> str:
    """The code with which ``spidl build`` refuses; no file may be left."""
    image = tmp_path / "image"
    before = set(tmp_path.iterdir())
    result = spidl(["build", str(main), "-o", str(image)])
    assert result.status == 2, result
    assert result.stdout == b""
    assert set(tmp_path.iterdir()) == before
    first = result.stderr.decode().splitlines()[0]
    assert first.startswith("spidl: refused["), result
    return first.partition("[")[2].partition("]")[0]


def runs_all_the_same(main: Path, expect: bytes) -> None:
    result = spidl(["run", str(main)])
    assert (result.stdout, result.status) == (expect, 0), result


@pytest.mark.parametrize("mode", [stat.S_ISUID, stat.S_ISGID], ids=["set-user-id", "set-group-id"])
def test_privileged_program_is_refused(place: Workshop, tmp_path: Path, mode: int) -> None:
    main = program(place)
    main.chmod(0o755 | mode)
    assert refused(main, tmp_path)
    runs_all_the_same(main, b"value 1\n")


def test_program_with_capabilities_is_refused(place: Workshop, tmp_path: Path) -> None:
    main = program(place)
    # struct vfs_cap_data, revision 2: CAP_NET_BIND_SERVICE permitted and effective.
    data = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    try:
        os.setxattr(main, "security.capability", data)
    except OSError as error:
        missing(f"cannot set a file capability here: {error}")
    assert refused(main, tmp_path)


@pytest.mark.parametrize("where", ["library", "program"])
def test_executable_stack_is_refused(place: Workshop, tmp_path: Path, where: str) -> None:
    main = program(place)
    if where == "library":
        library(place, 1, ".", "-Wl,-z,execstack")
    else:
        flags = ("-Wl,-rpath,$ORIGIN", "-Wl,-z,execstack")
        main = place.program("stack", "value_main.c", "libvalue.so", flags=flags)
    assert refused(main, tmp_path)
    runs_all_the_same(main, b"value 1\n")


def test_image_is_private(place: Workshop, tmp_path: Path, layout: Layout) -> None:
    """It holds a copy of the process's memory as it was at the link: nobody else's business."""
    old = os.umask(0)
    try:
        image = Images(tmp_path).get(program(place), layout, os.environ)
    finally:
        os.umask(old)
    assert stat.S_IMODE(image.stat().st_mode) == 0o700


def test_image_is_replaced_whole(place: Workshop, tmp_path: Path) -> None:
    """Building over an image that runs leaves the running one alone."""
    main, image = program(place), tmp_path / "image"
    for _ in range(2):
        result = spidl(["build", str(main), "-o", str(image)])
        assert result.status == 0, result
        assert run([str(main)], executable=image).stdout == b"value 1\n"
    before = image.stat().st_ino
    with image.open("rb") as still_open:
        assert spidl(["build", str(main), "-o", str(image)]).status == 0
        assert os.fstat(still_open.fileno()).st_ino == before != image.stat().st_ino


def test_build_into_a_missing_folder(place: Workshop, tmp_path: Path) -> None:
    result = spidl(["build", str(program(place)), "-o", str(tmp_path / "absent/image")])
    assert result.status == 2
    assert result.stderr.startswith(b"spidl: error[")
    assert b"Traceback" not in result.stderr


def test_moved_image_still_works(place: Workshop, tmp_path: Path, layout: Layout) -> None:
    """An image does not depend on its own name; it belongs to its inputs."""
    main = program(place)
    image = Images(tmp_path).get(main, layout, os.environ)
    moved = tmp_path / "moved"
    shutil.move(image, moved)
    outcome = run([str(main)], executable=moved, env={**os.environ, "SPIDL_VERBOSE": "1"})
    assert outcome == run([str(main)])
