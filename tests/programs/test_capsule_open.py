"""Libraries that are opened at run time: from inside a capsule, and beside one."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .capsules import Capsuled, Tree
from .conftest import Workshop


@pytest.fixture(scope="module")
def tree(workshop: Workshop) -> Tree:
    """Plug-ins everywhere in a root; one that needs libvalue.so gets the root's, which is 2."""
    tree = Tree(workshop.folder / "root")
    tree.library("libvalue.so", "capsule_dep.c", flags=("-DVALUE=2", "-DALSO=only_in_new"))
    value = f"{tree.libraries}/libvalue.so"

    def plugin(name: str, folder: str = "lib/x86_64-linux-gnu", *flags: str) -> str:
        calls = ("-DALSO_CALLS=value", *(flags or (value,)))
        return str(tree.library(name, "value.c", flags=calls, folder=folder))

    plug = plugin("libplug.so")
    deep = plugin("libdeep.so", "lib/x86_64-linux-gnu", plug, value)
    plugin("libdeeper.so", "lib/x86_64-linux-gnu", deep)
    plugin("libhere.so", "opt/plugins")
    sub = str(tree.library("libsub.so", "value.c", flags=("-DVALUE=22",), folder="opt/plugins/sub"))
    plugin("libruns.so", "opt/plugins", sub, "-Wl,-rpath,$ORIGIN/sub")
    plugin("librun.so", "opt/runpath")
    plugin("libold.so", "opt/plugins", sub, "-Wl,-rpath,$ORIGIN/sub", "-Wl,--disable-new-dtags")
    plugin("libcached.so", "opt/cached")
    plugin("libneedsz.so", "opt/plugins", value, "-lz")
    plugin("libneedsrun.so", "opt/plugins", str(tree.root / "opt/runpath/librun.so"))
    tree.library("libplugged.so", "value.c",
                 flags=("-DALSO_CALLS=value", "-Dthrough=plugged", value))  # fmt: skip
    tree.library("libprovider.so", "value.c", flags=("-DVALUE=77", "-Dvalue=provided"))
    place = ("-DVERB=inside", '-DPLACE="capsule"', value)
    tree.library("libopener.so", "capsule_verbs.c", flags=(*place, "-Wl,-rpath,/opt/runpath"))
    old = ("-Wl,-rpath,/opt/runpath", "-Wl,--disable-new-dtags")
    tree.library("libopener-old.so", "capsule_verbs.c", flags=(*place, *old))
    at_start = '-DOPENS_AT_START="libplug.so"'
    tree.library("libopener-early.so", "capsule_verbs.c", flags=(*place, at_start))
    (tree.libraries / "libabsolute.so").symlink_to("/opt/plugins/libhere.so")
    (tree.root / "usr").mkdir()
    (tree.root / "usr" / "lib").symlink_to("/opt/plugins")
    tree.cache("/lib/x86_64-linux-gnu", "/opt/cached")
    workshop.library("libvalue.so", "capsule_dep.c", flags=("-DVALUE=1",))
    for name in ("libplug.so", "libours.so"):
        workshop.library(name, "value.c", "libvalue.so", flags=("-DALSO_CALLS=value",))
    return tree


class Opener:
    """A program that opens what it is told, itself and through a library of its capsule."""

    def __init__(self, workshop: Workshop, tree: Tree, name: str = "libopener.so") -> None:
        place = ("-DVERB=outside", '-DPLACE="program"', "-Wl,--allow-shlib-undefined")
        self.program = workshop.program(
            f"with-{name}", "capsule_open_main.c", "capsule_verbs.c", "libvalue.so",
            flags=(*place, f"{tree.libraries}/{name}"),
        )  # fmt: skip
        self.capsuled = Capsuled(workshop.folder / f"images-{name}")
        self.capsules = {"host": tree.capsule(name)}

    def does(self, words: str, capsuled: Capsuled | None = None) -> list[str]:
        """What it prints for each word, without where and what the word was."""
        argv = [str(self.program), *words.split()]
        outcome = (capsuled or self.capsuled).run(argv, self.capsules)
        assert outcome.stderr == b""
        return [line[2:] for line in outcome.stdout.decode().splitlines() if line[:2] == "  "]


@pytest.fixture(scope="module")
def opener(workshop: Workshop, tree: Tree) -> Opener:
    return Opener(workshop, tree)


OPENED = "opened 1 "


def missing(path: object) -> str:
    return f"opened 0 {path}: cannot open shared object file: No such file or directory"


def test_a_plug_in_gets_the_libraries_of_its_side(opener: Opener) -> None:
    """libplug.so and the libvalue.so that it needs are on both sides."""
    words = "in value open libplug.so call through where through close"
    assert opener.does(words) == [
        "2", OPENED, "2", "libplug.so through libplug.so",
        "in the program's namespace 0, origin x86_64-linux-gnu", "0",
    ]  # fmt: skip
    words = words.replace("in ", "out ")
    assert opener.does(words)[:4] == ["1", OPENED, "1", "libplug.so through libplug.so"]
    both = "in open libplug.so call through out open libplug.so call through in call through"
    assert opener.does(both) == [OPENED, "2", OPENED, "1", "2"]


@pytest.mark.parametrize(
    "name",
    ["libdeep.so", "libdeeper.so", "librun.so", "libcached.so", "libabsolute.so",
     "/opt/plugins/libhere.so", "/usr/lib/libhere.so", "/usr/lib/../../opt/plugins/libhere.so",
     "ROOT/opt/plugins/libhere.so"],
)  # fmt: skip
def test_names_and_paths_are_the_roots(opener: Opener, tree: Tree, name: str) -> None:
    """Its folders, RUNPATH, ld.so.cache and absolute symbolic links; a path with the root before it
    is the root's too."""
    name = name.replace("ROOT", str(tree.root))
    assert opener.does(f"in open {name} call through close") == [OPENED, "2", "0"]


@pytest.mark.parametrize("name", ["libruns.so", "libold.so"])
def test_origin_of_what_is_opened(opener: Opener, name: str) -> None:
    """RUNPATH and RPATH of $ORIGIN/sub: libsub.so is found beside the plug-in, in the root.

    The search scope of a plug-in begins with the capsule's libraries, whose value() is 2."""
    lines = opener.does(f"in open /opt/plugins/{name} call through phdr")
    assert lines[:2] == [OPENED, "2"]
    assert "libsub.so" in lines


def test_rpath_of_the_opener(workshop: Workshop, tree: Tree) -> None:
    opener = Opener(workshop, tree, "libopener-old.so")
    assert opener.does("in open librun.so call through") == [OPENED, "2"]


def test_opened_by_a_constructor(workshop: Workshop, tree: Tree) -> None:
    opener = Opener(workshop, tree, "libopener-early.so")
    lines = opener.does("in call through where through")
    assert lines[:2] == ["2", "libplug.so through libplug.so"]
    assert lines[2].startswith("in the program's namespace 0")


def test_nothing_of_the_programs_is_taken(opener: Opener, tree: Tree) -> None:
    """A library that only the program's side has is missing inside: by name, and as a need."""
    root = tree.root
    assert opener.does("in open libours.so") == [missing(root / "libours.so")]
    assert opener.does("in open libz.so.1") == [missing(root / "libz.so.1")]
    assert opener.does("in open /opt/plugins/libneedsz.so") == [missing(root / "libz.so.1")]
    needs = "/opt/plugins/libneedsrun.so"
    assert opener.does(f"in open {needs}") == [missing(root / "librun.so")]
    assert opener.does("in open ./libplug.so") == [missing(f"{root}/./libplug.so")]


def test_nothing_of_the_capsules_is_taken(opener: Opener) -> None:
    assert opener.does("out open libcached.so") == [missing("libcached.so")]
    assert opener.does("out open libours.so call through") == [OPENED, "1"]


def test_noload(opener: Opener) -> None:
    """RTLD_NOLOAD opens neither the library nor what it needs."""
    lines = opener.does("in there libdeep.so there libplug.so open libdeep.so there libdeep.so "
                        "there libplug.so call through out there libplug.so")  # fmt: skip
    assert lines == ["opened 0 ", "opened 0 ", OPENED, OPENED, OPENED, "2", "opened 0 "]


def test_global(opener: Opener) -> None:
    """RTLD_GLOBAL and RTLD_DEFAULT are of the namespace; RTLD_NEXT begins behind who asks."""
    lines = opener.does("in default provided global libprovider.so default provided "
                        "out default provided default value in default value default only_in_new "
                        "next value")  # fmt: skip
    assert lines == ["nothing: an error", OPENED, "77", "nothing: an error", "1", "2", "2", "2"]


def test_libc_is_everybodys(opener: Opener) -> None:
    lines = opener.does("in open libc.so.6 has malloc has getenv out has malloc")
    assert lines == [OPENED, "1", "1", "1"]


def test_a_part_of_libc_that_the_program_does_not_have(opener: Opener) -> None:
    """It is the system's file all the same, of which the root has none here."""
    opened, where, namespace = opener.does("in open libm.so.6 where cos")
    assert (opened, where.split()[0]) == (OPENED, "libm.so.6")
    assert namespace.startswith("in the program's namespace 0")


def test_what_libc_opens_is_the_programs(opener: Opener) -> None:
    """NSS and iconv, called from inside: nothing of theirs is in the root."""
    lines = opener.does("in names")
    assert lines == ["user 1", "group 1", "address 0", "name 1", "iconv 1 225"]


def test_a_namespace_of_its_own(opener: Opener, tree: Tree) -> None:
    """dlmopen from inside: what is new, and the program's, have the system's names."""
    words = f"in new {tree.libraries}/libvalue.so call value base libplug.so"
    assert opener.does(words) == [OPENED, "2", missing("libplug.so")]


def test_dlopen_of_nothing_is_the_program(opener: Opener) -> None:
    """As under ld.so in every namespace (dlfcn/dlopen.c)."""
    assert opener.does("in self call value") == ["1", "1"]


def test_objects_are_told_to_their_side(opener: Opener) -> None:
    """dl_iterate_phdr: the capsule sees its own and what it shares, the program its own."""
    inside = opener.does("in phdr")
    assert {"libopener.so", "libvalue.so", "libc.so.6"} <= set(inside)
    outside = opener.does("out phdr")
    assert "libvalue.so" in outside
    assert "libopener.so" not in outside


def test_under_a_filter(opener: Opener, workshop: Workshop) -> None:
    """What finds libraries in the root makes calls that no object of the link makes."""
    filtered = Capsuled(workshop.folder / "filtered", modules=("seccomp",))
    words = "in open libdeep.so call through open nothing.so out value"
    assert opener.does(words, filtered) == opener.does(words)


@pytest.mark.parametrize("side", ["in", "out"])
def test_open_and_close_again_and_again(opener: Opener, side: str) -> None:
    """A thousand times, then by four threads."""
    first = "libdeep.so" if side == "in" else "libplug.so"
    lines = opener.does(f"{side} open {first} loop libplug.so 1000 threads libplug.so 5000")
    assert lines == [OPENED, "0 wrong", "0 more objects", "0 wrong", "0 more objects"]
    lines = opener.does(f"{side} loop libplug.so 1000 threads libplug.so 5000")
    assert lines == ["0 wrong", "0 more objects", "0 wrong", "0 more objects"]


def test_a_capsule_of_a_library_that_is_only_opened(workshop: Workshop, tree: Tree) -> None:
    """The program does not need it at its start: dlopen by name gives the capsule's."""
    place = ("-DVERB=outside", '-DPLACE="program"')
    program = workshop.program(
        "opens-only", "capsule_open_main.c", "capsule_verbs.c", "libvalue.so",
        flags=(*place, "-Dinside=outside"),
    )  # fmt: skip
    for opens in (False, True):
        capsuled = Capsuled(workshop.folder / f"only-{opens}")
        capsules = {"host": tree.capsule("libplug.so", opens=opens)}
        words = ["out", "open", "libplug.so", "call", "through", "value", "close"]
        outcome = capsuled.run([str(program), *words], capsules)
        lines = outcome.stdout.decode().splitlines()
        assert [line for line in lines if line[:2] == "  "] == ["  opened 1 ", "  2", "  1", "  0"]


def test_an_extension_binds_to_a_capsules_library(workshop: Workshop, tree: Tree) -> None:
    """A plug-in of the program's needs a library that the program has from a capsule, as Python's
    extension modules do: it is the same one."""
    flags = (f"{tree.libraries}/libplugged.so", "-Wl,--allow-shlib-undefined")
    workshop.library("libextension.so", "value.c", flags=("-DALSO_CALLS=plugged", *flags))
    place = ("-DVERB=outside", '-DPLACE="program"', "-Dinside=outside")
    program = workshop.program("extended", "capsule_open_main.c", "capsule_verbs.c", "libvalue.so",
                               flags=place)  # fmt: skip
    capsuled = Capsuled(workshop.folder / "extended-images")
    outcome = capsuled.run(
        [str(program), "open", "libextension.so", "call", "through"],
        {"host": tree.capsule("libplugged.so")},
    )
    assert outcome.stdout.decode().splitlines()[1::2] == ["  opened 1 ", "  2"]


def test_two_capsules_and_the_program(workshop: Workshop) -> None:
    """Three libvalue.so of one process: each side has its own."""
    trees = [Tree(workshop.folder / f"two{i}") for i in (0, 1)]
    for i, tree in enumerate(trees):
        tree.library("libvalue.so", "capsule_dep.c", flags=(f"-DVALUE={2 + i}",))
        tree.library(
            f"libside{i}.so",
            "value.c",
            flags=("-DALSO_CALLS=value", f"-Dthrough=side{i}", f"{tree.libraries}/libvalue.so"),
        )
        tree.cache()
    source = workshop.text(
        "two.c",
        "#include <stdio.h>\nint value(void), side0(void), side1(void);"
        '\nint main(void) { printf("%d %d %d\\n", value(), side0(), side1()); }',
    )
    workshop.library("libvalue.so", "capsule_dep.c", flags=("-DVALUE=1",))
    sides = [f"{tree.libraries}/libside{i}.so" for i, tree in enumerate(trees)]
    program = workshop.program(
        "two", str(source), "libvalue.so", flags=(*sides, "-Wl,--allow-shlib-undefined")
    )
    for number, opens in enumerate([(False, False), (True, True), (True, False)]):
        capsuled = Capsuled(workshop.folder / f"two-images-{number}")
        outcome = capsuled.run([str(program)], {
            f"side{i}": tree.capsule(f"libside{i}.so", opens=opens[i])
            for i, tree in enumerate(trees)
        })  # fmt: skip
        assert outcome.stdout == b"1 2 3\n"


def test_the_very_same_file_twice(workshop: Workshop, tmp_path: Path) -> None:
    """The program and a capsule have the same file, with data of its own in each."""
    tree = Tree(workshop.folder / "same-root")
    counter = tree.library("libcounter.so", "shared_counter.c")
    listing = subprocess.run(["nm", "-D", "--defined-only", str(counter)], capture_output=True,
                             text=True, check=True).stdout  # fmt: skip
    assert "counter_next" in listing
    tree.library("libcounts.so", "value.c", flags=("-DALSO_CALLS=counter_next", str(counter)))
    tree.cache()
    source = tmp_path / "same.c"
    source.write_text(
        "#include <stdio.h>\nint counter_next(void), through(void);\n"
        "int main(void) { int a = counter_next(), b = counter_next(), c = through();\n"
        '  return printf("%d %d %d\\n", a, b, c), 0; }\n'
    )
    flags = (f"-L{tree.libraries}", "-lcounter", "-lcounts", f"-Wl,-rpath,{tree.libraries}")
    program = workshop.program("same", str(source), flags=flags)
    for opens in (False, True):
        capsuled = Capsuled(workshop.folder / f"same-{opens}")
        outcome = capsuled.run([str(program)], {"host": tree.capsule("libcounts.so", opens=opens)})
        first, second, inside = map(int, outcome.stdout.decode().splitlines()[2].split())
        assert second == first + 1
        assert inside == first


def make_many(folder: Path, count: int) -> tuple[Path, list[Tree]]:
    """A program with libraries of so many roots, each with a dependency of the same name."""
    trees = [Tree(folder / f"root{i}") for i in range(count)]
    libraries = []
    for i, tree in enumerate(trees):
        dep = tree.library("libdep.so", "value.c", flags=(f"-DVALUE={i}",))
        flags = ("-DALSO_CALLS=value", f"-Dthrough=through{i}", str(dep))
        libraries.append(str(tree.library(f"libm{i}.so", "value.c", flags=flags)))
        tree.cache()
    calls = "".join(f"  right += through{i}() == {i};\n" for i in range(count))
    declared = ", ".join(f"through{i}(void)" for i in range(count))
    source = folder / "many.c"
    source.write_text(f"#include <stdio.h>\nint {declared};\nint main(void) {{\n  int right = 0;\n"
                      f'{calls}  return printf("%d right\\n", right), 0;\n}}\n')  # fmt: skip
    program = folder / "many"
    command: list[str | Path] = [
        "gcc",
        "-o",
        program,
        source,
        *libraries,
        "-Wl,--allow-shlib-undefined",
    ]
    subprocess.run(command, check=True)
    return program, trees


def test_many_capsules(tmp_path: Path) -> None:
    """ld.so has room for fifteen that open; of others there may be any number."""
    program, trees = make_many(tmp_path, 30)
    capsuled = Capsuled(tmp_path / "images")
    capsules = {f"c{i}": tree.capsule(f"libm{i}.so", opens=i < 15)
                for i, tree in enumerate(trees)}  # fmt: skip
    assert capsuled.run([str(program)], capsules).stdout == b"30 right\n"
    capsules["c29"]["opens"] = True
    with pytest.raises(AssertionError, match=r"refused\[adopt/many-namespaces\]"):
        capsuled.build(program, capsules)


def test_closed_by_a_destructor(workshop: Workshop, tree: Tree) -> None:
    """At exit a capsule's library still calls, looks up and closes what it has opened."""
    value = f"{tree.libraries}/libvalue.so"
    flags = ("-DVERB=inside", '-DPLACE="capsule"', "-DAT_END", value)
    tree.library("libopener-end.so", "capsule_verbs.c", flags=flags)
    opener = Opener(workshop, tree, "libopener-end.so")
    at_end = "at the end 2, closed 0"
    assert opener.does("in open libplug.so call through") == [OPENED, "2", at_end]
    assert opener.does("in open libdeep.so call through") == [OPENED, "2", at_end]


def test_in_a_copied_image(opener: Opener, workshop: Workshop) -> None:
    capsuled = Capsuled(workshop.folder / "copied", "copy")
    words = "in open libdeep.so call through default value close out value open libplug.so"
    assert opener.does(words, capsuled) == [OPENED, "2", "2", "0", "1", OPENED]


def test_the_programs_search_path_is_its_own(opener: Opener, workshop: Workshop) -> None:
    """LD_LIBRARY_PATH: libvalue.so and libplug.so from there for the program, not inside."""
    flags = ("-DVALUE=5", "-Wl,-h,libvalue.so")
    other = workshop.library("path/libvalue.so", "capsule_dep.c", flags=flags).parent
    workshop.library("path/libplug.so", "value.c", "path/libvalue.so",
                     flags=("-DALSO_CALLS=value", "-Wl,-h,libplug.so"))  # fmt: skip
    capsuled = Capsuled(workshop.folder / "steered", steering={"LD_LIBRARY_PATH": str(other)})
    words = "in value open libplug.so call through out value open libplug.so call through"
    assert opener.does(words, capsuled) == ["2", OPENED, "2", "5", OPENED, "5"]
