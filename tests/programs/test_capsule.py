"""Libraries from a capsule, as a program sees them: symbols of every kind, one libc, one order."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from .capsules import Capsuled, Tree
from .conftest import Workshop
from .harness import Layout

KINDS = {
    "pie": (),
    "fixed": ("-no-pie", "-fno-pie"),
    "no-copies": ("-fPIC",),
    "exporting": ("-rdynamic",),
}
"""How a program refers to a library's data and functions: by COPY, or by the GOT."""
MODELS = {
    "gd": ("-ftls-model=global-dynamic",),
    "ld": ("-ftls-model=local-dynamic",),
    "ie": ("-ftls-model=initial-exec",),
}


@pytest.fixture(scope="module")
def tree(workshop: Workshop) -> Tree:
    """A root whose libcap.so needs another libvalue.so than the programs beside it."""
    tree = Tree(workshop.folder / "root")
    tree.library("libvalue.so", "capsule_dep.c", flags=("-DVALUE=2", "-DALSO=only_in_new"))
    tree.library("libcap.so", "capsule_lib.c", flags=(f"{tree.libraries}/libvalue.so",))
    tree.cache()
    workshop.library("libvalue.so", "capsule_dep.c", flags=("-DVALUE=1",))
    return tree


@pytest.fixture(scope="module")
def programs(workshop: Workshop, tree: Tree) -> dict[str, Path]:
    cap = f"{tree.libraries}/libcap.so"
    return {
        kind: workshop.program(
            kind, "capsule_main.c", "libvalue.so",
            flags=(cap, "-Wl,--allow-shlib-undefined", *flags),
        )
        for kind, flags in KINDS.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("capsuled")


@pytest.fixture(scope="module")
def stores(folder: Path) -> dict[Layout, Capsuled]:
    return {"shared": Capsuled(folder, "shared"), "copy": Capsuled(folder, "copy")}


@pytest.fixture
def capsuled(stores: dict[Layout, Capsuled], layout: Layout) -> Capsuled:
    """In both layouts."""
    return stores[layout]


@pytest.fixture
def shared(stores: dict[Layout, Capsuled]) -> Capsuled:
    """In the default layout only."""
    return stores["shared"]


opens = pytest.mark.parametrize("opens", [False, True], ids=["listed", "opening"])
"""Its objects in the program's list in ld.so, or in a namespace of ld.so's own."""


@opens
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behaviour", ["start", "data", "functions", "shared"])
def test_as_the_systems_linker_does(
    shared: Capsuled, programs: dict[str, Path], tree: Tree, kind: str, behaviour: str, opens: bool
) -> None:
    """Constructors' arguments; data and the program's copies of it; IFUNCs; one malloc, errno,
    environment, stdio, signals, fork handlers and atexit."""
    capsules = {"host": tree.capsule("libcap.so", opens=opens)}
    outcome = shared.same([str(programs[kind]), behaviour], capsules, tree)
    assert outcome.stdout.endswith(b"capsule: destructor\n")


@opens
@pytest.mark.parametrize("behaviour", ["data", "functions"])
def test_in_the_other_layout(
    stores: dict[Layout, Capsuled], programs: dict[str, Path], tree: Tree, behaviour: str,
    opens: bool,
) -> None:  # fmt: skip
    capsules = {"host": tree.capsule("libcap.so", opens=opens)}
    stores["copy"].same([str(programs["pie"]), behaviour], capsules, tree)


@opens
@pytest.mark.parametrize("kind", KINDS)
def test_equal_names_stay_apart(
    capsuled: Capsuled, programs: dict[str, Path], tree: Tree, kind: str, opens: bool
) -> None:
    """libvalue.so is there twice: functions, data and thread-locals, in threads and children."""
    capsules = {"host": tree.capsule("libcap.so", opens=opens)}
    outcome = capsuled.run([str(programs[kind]), "versions"], capsules)
    assert outcome.stdout.decode() == (
        "program has 1 1 1\n"
        "capsule has 222\n"
        "program sees what only the capsule's has: 0\n"
        "capsule sees what only the program has: 0\n"
        "same name 1 2\n"
        "in a thread 6002\n"
        "in a child 22\n"
        "capsule: destructor\n"
    )


@opens
@pytest.mark.parametrize("kind", KINDS)
def test_thread_locals_across(
    shared: Capsuled, programs: dict[str, Path], tree: Tree, kind: str, opens: bool
) -> None:
    """The program's own accesses (initial exec, or general dynamic in a PIC one)."""
    capsules = {"host": tree.capsule("libcap.so", opens=opens)}
    outcome = shared.same([str(programs[kind]), "tls"], capsules, tree)
    assert outcome.stdout.startswith(b"thread-local 5 1\n")


def test_what_dlsym_sees(shared: Capsuled, programs: dict[str, Path], tree: Tree) -> None:
    """The program asks for a capsule's library by name, and for one of its own."""
    capsules = {"host": tree.capsule("libcap.so")}
    names = ["cap_value", "cap_indirect", "cap_data", "value"]
    outcome = shared.run([str(programs["no-copies"]), "looks", "libcap.so", *names], capsules)
    assert outcome.stdout.decode() == (
        "there already 1\n"
        "cap_value: handle 1, default 1, same 1\n  in libcap.so as cap_value\n"
        "cap_indirect: handle 1, default 1, same 1\n  in libcap.so as nothing\n"
        "cap_data: handle 1, default 1, same 1\n  in libcap.so as cap_data\n"
        "value: handle 0, default 1, same 0\n"
        "closed 0\ncapsule: destructor\n"
    )
    outcome = shared.run(
        [str(programs["no-copies"]), "looks", "libvalue.so", "value", "only_in_new"], capsules
    )
    assert outcome.stdout.decode() == (
        "there already 1\n"
        "value: handle 1, default 1, same 1\n  in libvalue.so as value\n"
        "only_in_new: handle 0, default 0, same 1\n"
        "closed 0\ncapsule: destructor\n"
    )


@opens
@pytest.mark.parametrize("behaviour", ["main", "threads", "fork"])
@pytest.mark.parametrize("fixed", [False, True], ids=["pie", "fixed"])
def test_thread_local_models(
    shared: Capsuled, workshop: Workshop, tree: Tree, behaviour: str, fixed: bool, opens: bool
) -> None:
    """Three libraries of a capsule with a model each; descriptors are in the program's own."""
    for start, (name, model) in enumerate(MODELS.items()):
        names = (f"-DPREFIX={name}", f"-DSTART={start * 10}")
        tree.library(f"libtls_{name}.so", "tls_lib.c", flags=(*names, *model))
    flags = ("-DPREFIX=desc", "-DSTART=30", "-mtls-dialect=gnu2")
    workshop.library("libtls_desc.so", "tls_lib.c", flags=flags)
    libraries = [f"{tree.libraries}/libtls_{name}.so" for name in MODELS]
    program = workshop.program(
        f"tls-{fixed}", "tls_main.c", "libtls_desc.so",
        flags=(*libraries, *(("-no-pie", "-fno-pie") if fixed else ())),
    )  # fmt: skip
    capsules = {"host": tree.capsule(*(f"libtls_{name}.so" for name in MODELS), opens=opens)}
    outcome = shared.same([str(program), behaviour], capsules, tree)
    assert b"same 1" in outcome.stdout
    assert b"same 0" not in outcome.stdout


@pytest.fixture(scope="module")
def cxx(workshop: Workshop, tree: Tree) -> Path:
    tree.library("libcxx_base.so", "cxx_base.cc")
    tree.library("libcxx_user.so", "cxx_user.cc", "libcxx_base.so")
    workshop.library("libcxx_plugin.so", "cxx_plugin.cc",
                     flags=(f"{tree.libraries}/libcxx_base.so",))  # fmt: skip
    flags = [f"{tree.libraries}/{name}" for name in CXX]
    shutil.copy("/lib/x86_64-linux-gnu/libstdc++.so.6", tree.libraries)
    tree.cache()
    return workshop.program("cxx", "cxx_main.cc", flags=tuple(flags))


CXX = ("libcxx_user.so", "libcxx_base.so")
ONE: list[str] = []
TWO = ["libstdc++.so.6"]
"""What is private: libstdc++ is everybody's, or the capsule has its own."""


@opens
@pytest.mark.parametrize("private", [ONE, TWO], ids=["one-libstdc++", "two"])
@pytest.mark.parametrize(
    "behaviour",
    ["throw-across", "type-identity", "throw-from-plugin", "across-threads",
     "thread-local-destructors", "streams", "bad-alloc"],
)  # fmt: skip
def test_cxx(
    shared: Capsuled, cxx: Path, tree: Tree, behaviour: str, private: list[str], opens: bool
) -> None:
    """Exceptions both ways, types, thread-local objects, streams."""
    capsules = {"host": tree.capsule(*CXX, opens=opens, private=private)}
    shared.same([str(cxx), behaviour], capsules, tree)


@pytest.mark.parametrize("private", [ONE, TWO], ids=["one-libstdc++", "two"])
def test_uncaught_exception(shared: Capsuled, cxx: Path, tree: Tree, private: list[str]) -> None:
    capsules = {"host": tree.capsule(*CXX, private=private)}
    outcome = shared.same([str(cxx), "uncaught"], capsules, tree, status=-signal.SIGABRT)
    assert b"terminate called after throwing an instance of 'Special'" in outcome.stderr


def test_a_unique_symbol_is_one_in_each_namespace(shared: Capsuled, cxx: Path, tree: Tree) -> None:
    """STB_GNU_UNIQUE: the program and what it opens have one, the capsule has another."""
    outcome = shared.run([str(cxx), "unique"], {"host": tree.capsule(*CXX)})
    lines = outcome.stdout.decode().splitlines()
    assert lines[2:5] == ["library bumps to 1", "plug-in bumps to 11", "main sees 11"]


@opens
def test_order_across_the_border(
    shared: Capsuled, workshop: Workshop, tree: Tree, opens: bool
) -> None:
    """Constructors after those of what is needed, on either side; destructors the other way."""
    tree.library("libinner.so", "order.c", flags=("-DNAME=inner",))
    tree.library("libouter.so", "order.c", "libinner.so", flags=("-DNAME=outer",))
    outer = f"{tree.libraries}/libouter.so"
    flags = ("-Wl,--allow-shlib-undefined", outer)
    workshop.library("libown.so", "order.c", flags=("-DNAME=own",))
    workshop.library("libuses.so", "order.c", "libown.so", flags=("-DNAME=uses", *flags))
    program = workshop.program("order", "order.c", "libuses.so",
                               flags=("-DNAME=program", "-DPROGRAM", *flags))  # fmt: skip
    outcome = shared.run([str(program)], {"host": tree.capsule("libouter.so", opens=opens)})
    lines = outcome.stdout.decode().splitlines()
    assert lines[0] == "preinit, argc 1, argv 1, envp 1"
    at = {line: i for i, line in enumerate(lines)}
    assert len(at) == len(lines) == 1 + 5 * 3 + 1 + 5 * 3
    for first, then in (("inner", "outer"), ("outer", "uses"), ("own", "uses"),
                        ("uses", "program")):  # fmt: skip
        assert at[f"{first} constructed, argc 1, argv 1, envp 1"] < at[f"{then} constructor 200"]
        assert at[f"{then} destructor 200"] < at[f"{first} destroyed"]


@opens
@pytest.mark.parametrize("which", ["first", "second", "without"])
def test_versions(shared: Capsuled, workshop: Workshop, opens: bool, which: str) -> None:
    """Default and hidden versions, for programs linked with the one, the other, or neither."""
    first = workshop.text("first.map", "V1 { global: answer; only_old; local: *; };\n")
    both = workshop.text(
        "both.map", "V1 { global: answer; only_old; local: *; };\nV2 { global: answer; } V1;\n"
    )
    tree = Tree(workshop.folder / "versions-root")
    soname = "-Wl,-h,libversions.so"
    make = {
        "first": ("versions_old.c", (f"-Wl,--version-script={first}",)),
        "second": ("versions_new.c", (f"-Wl,--version-script={both}",)),
        "without": ("versions_old.c", ()),
    }
    source, flags = make[which]
    workshop.library(f"{which}/libversions.so", source, flags=(soname, *flags))
    program = workshop.program(f"with-{which}", "versions_main.c", f"{which}/libversions.so",
                               flags=("-Wl,-rpath,/nowhere",))  # fmt: skip
    source, flags = make["second"]
    tree.library("libversions.so", source, flags=(soname, *flags))
    tree.cache()
    outcome = shared.same([str(program)], {"host": tree.capsule("libversions.so", opens=opens)},
                          tree)  # fmt: skip
    answer = 2 if which == "second" else 1
    assert f"answer {answer}\n".encode() in outcome.stdout


@opens
@pytest.mark.parametrize("exports", [False, True], ids=["inside", "exported"])
def test_a_program_with_its_own_malloc(
    shared: Capsuled, workshop: Workshop, tree: Tree, exports: bool, opens: bool
) -> None:
    """The capsule uses it too: the program's free ends the process for any other's memory."""
    flags = (f"{tree.libraries}/libcap.so", "-Wl,--allow-shlib-undefined")
    program = workshop.program(
        f"malloc-{exports}", "capsule_main.c", "capsule_malloc.c", "libvalue.so",
        flags=(*flags, *(("-rdynamic",) if exports else ())),
    )  # fmt: skip
    capsules = {"host": tree.capsule("libcap.so", opens=opens)}
    shared.same([str(program), "shared"], capsules, tree)


@opens
def test_a_preloaded_malloc(
    folder: Path, workshop: Workshop, programs: dict[str, Path], tree: Tree, opens: bool
) -> None:
    preloaded = workshop.library("libmalloc.so", "capsule_malloc.c")
    capsuled = Capsuled(folder / f"preload-{opens}", steering={"LD_PRELOAD": str(preloaded)})
    capsules = {"host": tree.capsule("libcap.so", opens=opens)}
    capsuled.same([str(programs["pie"]), "shared"], capsules, tree)


def test_symbolic_binds_to_itself(shared: Capsuled, workshop: Workshop) -> None:
    """DT_SYMBOLIC: the library's own function, which a library before it defines too."""
    tree = Tree(workshop.folder / "symbolic-root")
    both = ("-DVALUE=4", "-DALSO_CALLS=value", "-fsemantic-interposition")
    tree.library("libfirst.so", "value.c", flags=("-DVALUE=3",))
    tree.library("libbound.so", "value.c", flags=(*both, "-Wl,-Bsymbolic"))
    tree.library("libfree.so", "value.c", flags=(*both, "-Dthrough=freely"))
    tree.cache()
    source = workshop.folder / "symbolic.c"
    source.write_text("#include <stdio.h>\nint value(void), through(void), freely(void);\n"
                      'int main(void) { return printf("%d %d %d\\n", value(), through(), freely()),'
                      " 0; }\n")  # fmt: skip
    names = ("libfirst.so", "libbound.so", "libfree.so")
    program = workshop.program(
        "symbolic", str(source), flags=tuple(f"{tree.libraries}/{name}" for name in names)
    )
    for opens in (False, True):
        outcome = shared.same([str(program)], {"host": tree.capsule(*names, opens=opens)}, tree)
        assert outcome.stdout == b"3 4 3\n"


@opens
@pytest.mark.parametrize("fixed", [False, True], ids=["pie", "fixed"])
def test_thread_locals_of_a_capsule_in_other_libraries(
    shared: Capsuled, workshop: Workshop, tree: Tree, fixed: bool, opens: bool
) -> None:
    """Initial exec, general dynamic, descriptors: the program's own libraries use them too."""
    flags = (f"{tree.libraries}/libcap.so", "-Wl,--allow-shlib-undefined")
    models = {"gd": MODELS["gd"], "ie": MODELS["ie"], "desc": ("-mtls-dialect=gnu2",)}
    for name, model in models.items():
        workshop.library(f"libadd_{name}.so", "capsule_tls_user.c",
                         flags=(f"-DNAME=add_{name}", *model, *flags))  # fmt: skip
    program = workshop.program(
        f"add-{fixed}", "capsule_tls_main.c", *(f"libadd_{name}.so" for name in models),
        flags=(*flags, *(("-no-pie", "-fno-pie") if fixed else ())),
    )  # fmt: skip
    outcome = shared.same([str(program)], {"host": tree.capsule("libcap.so", opens=opens)}, tree)
    lines = outcome.stdout.decode().splitlines()
    assert lines[:2] == ["1116 1115 1105 1005 5"] * 2
    assert lines[2] == "2227 2226 2216 2116 1116"
