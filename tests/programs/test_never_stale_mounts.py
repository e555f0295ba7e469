"""The same paths, other files: mount namespaces, chroot, and an upgrade of libc itself.

All in mount namespaces, so that the machine's own files stay as they are.  Where a namespace goes
on with the same cache, the next start outside must notice as well.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .attack import program
from .starts import TELLS, Place, in_namespace, root_only, told, value

pytestmark = root_only
LIBC = next(Path(found).resolve() for found in re.findall(
    r"/\S*/libc\.so\.6", Path("/proc/self/maps").read_text()))  # fmt: skip
RELEASE = """#include <gnu/libc-version.h>
#include <stdio.h>
#include <string.h>
int main(void) {
  static char line[8192];
  int image = 0;
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps && fgets(line, sizeof line, maps)) image |= strstr(line, "/images/") != NULL;
  printf("%s %s\\n", gnu_get_libc_release(), image ? "image" : "plain");
  return 0;
}"""
"""Prints what libc says about itself, and ``image`` or ``plain`` as the other programs do."""
THRICE = """
SPIDL_RELINK=never spidl run "$1"
spidl run "$1"
SPIDL_RELINK=never spidl run "$1"
"""
"""A start that may not link, one that may, and what that one left."""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_another_mount_namespace(place: Place) -> None:
    other = value(place.folder / "other", 2)
    assert place.start() == told(1, "image")
    script = f'SPIDL_RELINK=never spidl run "$1"\nmount --bind "$2" "$3"\n{THRICE}'
    inside = in_namespace(script, place.main, other, place.lib / "libvalue.so",
                          env=place.environment())  # fmt: skip
    assert inside.stdout.split(b"\n") == [b"1 image", b"2 plain", b"2 image", b"2 image", b""], (
        inside
    )
    assert place.never() == told(1, "plain")
    assert place.start() == told(1, "image")


def test_a_mount_over_the_folder(place: Place) -> None:
    """A whole folder of other files; the program is another one, too."""
    (place.folder / "other").mkdir()
    other = Place(place.folder / "other")
    value(other.lib, 3)
    assert place.start() == told(1, "image")
    inside = in_namespace(f'mount --bind "$2" "$3"\n{THRICE}', place.main, other.lib, place.lib,
                          env=place.environment())  # fmt: skip
    assert inside.stdout == b"3 plain\n3 image\n3 image\n", inside
    assert place.never() == told(1, "plain")


def test_chroot_with_the_same_cache(place: Place) -> None:
    """The machine's root once more, but for one library."""
    other, root = value(place.folder / "other", 2), place.folder / "root"
    root.mkdir()
    assert place.start() == told(1, "image")
    inside = in_namespace(
        'mount --rbind / "$2"\nmount --bind "$3" "$2$4"\n'
        + THRICE.replace("spidl run", 'chroot "$2" "$5" $WORDS run'),
        place.main, root, other, place.lib / "libvalue.so", place.launcher,
        env=place.environment(WORDS=" ".join(place.words()[1:])),
    )  # fmt: skip
    assert inside.stdout == b"2 plain\n2 image\n2 image\n", inside
    assert place.never() == told(1, "plain")
    assert place.start() == told(1, "image")


@pytest.mark.parametrize("changed", [True, False])
def test_libc_is_upgraded(place: Place, changed: bool) -> None:
    """One that says something else, and the same bytes in another file."""
    main = program(place.lib / "release", RELEASE)
    content = LIBC.read_bytes()
    assert content.count(b"\0stable\0") == 1
    other = place.folder / "libc.so.6"
    other.write_bytes(content.replace(b"\0stable\0", b"\0newest\0") if changed else content)
    other.chmod(0o755)
    script = f'SPIDL_RELINK=never spidl run "$1"\nmount --bind "$2" {LIBC}\n{THRICE}'
    place.main = main
    assert place.start().stdout == b"stable image\n"
    inside = in_namespace(script, main, other, env=place.environment())
    name = b"newest" if changed else b"stable"
    assert inside.stdout.split(b"\n") == [
        b"stable image", name + b" plain", name + b" image", name + b" image", b"",
    ], inside  # fmt: skip
    assert place.never().stdout == b"stable plain\n"


CACHE, PRELOAD = "/etc/ld.so.cache", "/etc/ld.so.preload"
MAKE = {
    CACHE: 'echo "$N" > "$T/conf"; ldconfig -X -C "$T/$K" -f "$T/conf"',
    PRELOAD: 'echo "$N/libvalue.so" > "$T/$K"',
}


@pytest.mark.parametrize(("file", "there"), [(CACHE, True), (PRELOAD, True), (PRELOAD, False)])
def test_ld_so_s_own_files(place: Place, file: str, there: bool) -> None:
    """They lead to another library from now on, where they led to one, or were not there."""
    if file == CACHE:
        place.main = program(place.lib / "searching", TELLS, place.lib / "libvalue.so",
                             "-Wl,-rpath,/nowhere")  # fmt: skip
    first, second = (value(place.folder / name, n) for n, name in ((4, "one"), (5, "two")))
    before = f'K=kept; N="$2"; {MAKE[file]}; cp "$T/$K" {file}' if there else f"rm -f {file}"
    script = f"""
mkdir "$T"
cp -a /etc "$T/etc"; mount --bind "$T/etc" /etc
{before}
spidl run "$1"; SPIDL_RELINK=never spidl run "$1"
N="$3"; K=new; {MAKE[file]}; mv "$T/$K" {file}
{THRICE}"""
    inside = in_namespace(script, place.main, first.parent, second.parent,
                          env=place.environment(T=str(place.folder / "t")))  # fmt: skip
    kept = b"4 image" if there else b"1 image"
    lines = [kept, kept, b"5 plain", b"5 image", b"5 image", b""]
    assert inside.stdout.split(b"\n") == lines, inside
