"""Hooked bindings: the chosen ones, for the chosen callers, and nothing else."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import tool

from .conftest import Workshop
from .harness import SOURCE
from .pages import follow

SHAPES = ("ten", "sum", "make_small", "make_big", "make_long_double", "make_complex")
"""What hooks.c and shapes.c both have."""
Rule = dict[str, object]


class Bench:
    """Programs of the test, and an image cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workshop = Workshop(folder)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("LD_", "SPIDL_"))},
            "SPIDL_CACHE": str(folder / "cache"), "PYTHONPATH": str(SOURCE),
        }  # fmt: skip

    def start(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=120, cwd=self.folder,
            env={**self.environment, **variables},
        )  # fmt: skip

    def spidl(self, command: str, rules: list[Rule] | str, *words: str | Path) -> (
        subprocess.CompletedProcess[str]
    ):  # fmt: skip
        """spidl COMMAND with hooks; rules are those of the settings, or one line."""
        if isinstance(rules, str):
            text = rules
        else:
            tables = (", ".join(f"{k} = {json.dumps(v)}" for k, v in r.items()) for r in rules)
            text = "[" + ", ".join(f"{{{table}}}" for table in tables) + "]"
        return self.start(sys.executable, "-m", "spidl", command, "--with", "hook",
                          "--set", f"hook.rules={text}", *words)  # fmt: skip

    def hooked(self, rules: list[Rule] | str, *words: str | Path) -> str:
        """What a program prints whose image was used."""
        result = self.spidl("run", rules, "--", *words)
        assert (result.stderr, result.returncode) == ("", 0)
        return result.stdout

    def compile(self, name: str, text: str, *flags: str) -> Path:
        source = self.folder / f"{name}.c"
        source.write_text(text)
        output = self.folder / name
        subprocess.run(["gcc", "-w", "-O0", "-fno-builtin", "-o", output, source, *flags],
                       check=True)  # fmt: skip
        return output

    def library(self, name: str, text: str, *flags: str) -> Path:
        return self.compile(name, text, "-shared", "-fPIC", f"-Wl,-h,{name}", *flags)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _shapes(bench: Bench, *flags: str) -> tuple[Path, Path]:
    """A program, and the object with the hooks."""
    bench.workshop.library("libshapes.so", "shapes.c")
    program = bench.workshop.program(
        "call_shapes", "call_shapes.c", "libshapes.so", flags=("-pthread", "-mavx2", *flags)
    )
    return program, bench.workshop.library("libhooks.so", "hooks.c")


# -- as LD_PRELOAD, where LD_PRELOAD can speak ----------------------------------------------------


@pytest.mark.parametrize("flags", [("-Wl,-z,lazy",), ("-fno-plt",), ("-no-pie",)])
def test_all_shapes_as_under_ld_preload(bench: Bench, flags: tuple[str, ...]) -> None:
    """Variadic functions, ten arguments, structs, long double; threads, children, jumps."""
    program, hooks = _shapes(bench, *flags)
    preloaded = bench.start(program, LD_PRELOAD=str(hooks))
    assert preloaded.returncode == 0
    assert preloaded.stdout != bench.start(program).stdout
    rules: list[Rule] = [{"symbol": name, "with": str(hooks)} for name in (*SHAPES, "printf")]
    assert bench.hooked(rules, program) == preloaded.stdout


@pytest.mark.parametrize("command", [
    ("git", "--version"), ("perl", "-e", "print $ENV{HOME}"), ("curl", "--version"),
], ids=lambda command: command[0])  # fmt: skip
def test_real_programs_as_under_ld_preload(bench: Bench, command: tuple[str, ...]) -> None:
    """Each call of getenv, by whomever, with its name and its result."""
    hooks = bench.library(
        "libgetenv.so",
        """
        #define _GNU_SOURCE
        #include <dlfcn.h>
        #include <stdio.h>
        char *getenv(const char *name)
        {
            char *value = ((char *(*)(const char *))dlsym(RTLD_NEXT, "getenv"))(name);
            fprintf(stderr, "%s=%s\\n", name, value ? value : "(none)");
            return value;
        }
    """,
    )
    path = tool(command[0], command[0])
    preloaded = bench.start(path, *command[1:], LD_PRELOAD=str(hooks))
    assert preloaded.stderr.count("\n") > 3
    ours = bench.spidl("run", f"getenv::{hooks}", "--", path, *command[1:])
    theirs = [line for line in preloaded.stderr.splitlines() if not line.startswith("LD_PRELOAD")]
    assert ours.stderr.splitlines() == theirs
    assert (ours.stdout, ours.returncode) == (preloaded.stdout, preloaded.returncode)


# -- what LD_PRELOAD cannot -----------------------------------------------------------------------


def test_only_what_was_asked_for(bench: Bench) -> None:
    """The hooks' object has seven functions that others have too; only one is to be used."""
    program, hooks = _shapes(bench)
    plain = bench.start(program).stdout.splitlines()
    only_ten = bench.hooked([{"symbol": "ten", "with": str(hooks)}], program).splitlines()
    assert only_ten[0] == f"{float(plain[0]) + 1000:g}"
    assert only_ten[1:] == plain[1:]


def test_only_libcurl_opens_another_file(bench: Bench) -> None:
    """curl file://... : libcurl opens the file, curl itself opens the one that it writes."""
    curl = tool("curl", "curl")
    wanted, other, out = (bench.folder / name for name in ("wanted", "other", "out"))
    wanted.write_text("what was asked for\n")
    other.write_text("another\n")
    hooks = bench.library(
        "libopen.so",
        f"""
        #include <fcntl.h>
        #include <string.h>
        int my_open(const char *path, int flags, int mode)
        {{
            return open(strcmp(path, "{wanted}") ? path : "{other}", flags, mode);
        }}
    """,
    )
    everyone: Rule = {"symbol": "open*", "with": str(hooks), "function": "my_open"}
    rule = {**everyone, "callers": ["libcurl.so.*"], "of": "libc.so.6"}
    words = (curl, "-s", "-o", out, f"file://{wanted}")
    bench.hooked([rule], *words)
    assert out.read_text() == "another\n"
    assert bench.spidl("build", [{**rule, "callers": ["libssl.so.*"]}], "-o", "image",
                       curl).returncode == 2, "libssl opens nothing"  # fmt: skip
    assert wanted.read_text() == "what was asked for\n"


def test_only_what_libpng_allocates(bench: Bench) -> None:
    """Only libpng's calls of malloc are counted in a program whose other libraries call it too."""
    pngfix = tool("pngfix", "libpng-tools")
    hooks = bench.library(
        "libcount.so",
        """
        #include <stdio.h>
        #include <stdlib.h>
        static int made;
        void *my_malloc(size_t size) { made++; return malloc(size); }
        static __attribute__((destructor)) void end(void) { fprintf(stderr, "%d\\n", made); }
    """,
    )
    picture = bench.folder / "one.png"
    picture.write_bytes(bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
        "3a7e9b550000000a49444154789c6360000000020001e221bc330000000049454e44ae426082"
    ))  # fmt: skip
    plain = bench.start(pngfix, picture)
    made = []
    for callers in (["libpng16.so.16"], ["libz.so.1"], ["*"]):
        rule: Rule = {"symbol": "malloc", "with": str(hooks), "function": "my_malloc",
                      "callers": callers}  # fmt: skip
        result = bench.spidl("run", [rule], "--", pngfix, picture)
        assert (result.stdout, result.returncode) == (plain.stdout, plain.returncode)
        made.append(int(result.stderr.splitlines()[-1]))
    png, z, all_ = made
    assert 0 < png < all_
    assert png + z <= all_


ORIGINALS = """
    #include <stddef.h>
    #include <string.h>
    void *(*real_memcpy)(void *, const void *, size_t);
    size_t (*real_strlen)(const char *);
    int (*real_atoi)(const char *);
    void *my_memcpy(void *to, const void *from, size_t size)
    {
        real_memcpy(to, from, size);
        *(char *)to = 'M';
        return to;
    }
    size_t my_strlen(const char *text) { return real_strlen(text) + 100; }
    int my_atoi(const char *text) { return real_atoi(text) + 100; }
"""
USER = """
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    int (*volatile pointers[])(const char *) = {atoi};
    int main(int count, char **words)
    {
        char text[10];
        memcpy(text, "abcdefgh", 9);
        printf("%s %zu %d %d\\n", text, strlen(text), atoi("7"), pointers[0]("8"));
        return 0;
    }
"""


@pytest.mark.parametrize("flags", [("-Wl,-z,lazy",), ("-fno-plt",), ("-no-pie",)])
def test_originals_in_variables(bench: Bench, flags: tuple[str, ...]) -> None:
    """memcpy and strlen are indirect functions: what they are only the running process knows."""
    hooks = bench.library("liboriginals.so", ORIGINALS)
    program = bench.compile("user", USER, *flags)
    rules: list[Rule] = [
        {"symbol": symbol, "with": str(hooks), "function": "my_*", "original": "real_*"}
        for symbol in ("memcpy", "strlen", "ato[ij]")
    ]
    assert bench.start(program).stdout == "abcdefgh 8 7 8\n"
    assert bench.hooked(rules, program) == "Mbcdefgh 108 107 108\n"


def test_pointers_left_alone(bench: Bench) -> None:
    hooks = bench.library("liboriginals.so", ORIGINALS)
    program = bench.compile("user", USER, "-Wl,-z,lazy", "-fPIE", "-pie")
    rule: Rule = {"symbol": "atoi", "with": str(hooks), "function": "my_atoi",
                  "original": "real_atoi", "pointers": False}  # fmt: skip
    assert bench.hooked([rule], program) == "abcdefgh 8 107 8\n"


def test_cxx_and_exceptions(bench: Bench) -> None:
    """A mangled name; exceptions and a cancelled thread leave through the hook's frame."""
    bench.workshop.library("libthrower.so", "thrower.cc")
    program = bench.workshop.program("catcher", "catcher.cc", "libthrower.so", flags=("-pthread",))
    (bench.folder / "hook.cc").write_text("""
        int pass_on(int (*function)(int), int argument, int *destroyed);
        struct Twice { int *count; ~Twice() { *count += 100; } };
        int my_pass_on(int (*function)(int), int argument, int *destroyed)
        {
            Twice twice{destroyed};
            return pass_on(function, argument, destroyed);
        }
    """)
    hooks = bench.folder / "libcxx.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", hooks, bench.folder / "hook.cc"], check=True)
    plain = bench.start(program).stdout.split()
    rules = f"_Z7pass_onPFiiEiPi:_Z10my_pass_onPFiiEiPi:{hooks}"
    ours = bench.hooked(rules, program).split()
    assert plain == ["negative", "1", "3", "5", "1", "6"]
    assert ours == ["negative", "101", "3", "505", "1", "606"]


def test_versions_and_unhooked_callers(bench: Bench) -> None:
    """One caller of two; the other keeps the original though the hook has its very name."""
    for name in ("one", "two"):
        bench.library(
            f"lib{name}.so",
            f"""
            #include <stdlib.h>
            int {name}(void) {{ return atoi("1"); }}
        """,
        )
    program = bench.compile("both", """
        #include <stdio.h>
        int one(void), two(void);
        int main(void) { printf("%d %d\\n", one(), two()); return 0; }
    """, f"-L{bench.folder}", "-l:libone.so", "-l:libtwo.so", "-Wl,-rpath,$ORIGIN")  # fmt: skip
    hooks = bench.library("libatoi.so", "int atoi(const char *text) { return 5; }")
    rule: Rule = {"symbol": "atoi@GLIBC_2.2.5", "with": str(hooks), "callers": ["libtwo.so"]}
    assert bench.hooked([rule], program) == "1 5\n"
    assert bench.hooked([{**rule, "callers": ["lib*.so"]}], program) == "5 5\n"
    result = bench.spidl("build", [{**rule, "symbol": "atoi@GLIBC_2.3"}], "-o", "image", program)
    assert "they ask for atoi@GLIBC_2.2.5 of libc.so.6" in result.stderr


def test_hooked_and_traced(bench: Bench) -> None:
    """With both modules, a trace counts the calls and passes them on to the hook."""
    program, hooks = _shapes(bench)
    table = bench.folder / "counts"
    result = bench.start(
        sys.executable, "-m", "spidl", "trace", "--with", "hook",
        "--set", f"hook.rules=ten::{hooks}",
        "--caller", "call_shapes", "--symbol", "ten", "-o", table, program,
    )  # fmt: skip
    assert result.stdout.splitlines()[0] == "1050.88"
    assert re.search(r"^ +1 +call_shapes +\S+ +ten$", table.read_text(), re.MULTILINE)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "code", "note"), [
    ({"symbol": "atol"}, "hook/no-match", "there is atoi"),
    ({"symbol": "atoi", "callers": ["libx.so"]}, "hook/no-match", "called `libx.so`"),
    ({"symbol": "atoi", "of": "libm.so.6"}, "hook/no-match", "they ask for atoi"),
    ({"symbol": "atoi", "function": "my_ato"}, "hook/no-function", "my_atoi"),
    ({"symbol": "atoi", "function": "real_atoi"}, "hook/no-function", "has no function"),
    ({"symbol": "stdout"}, "hook/data", "is data"),
    ({"symbol": "atoi", "original": "none"}, "hook/no-variable", "does not define it"),
    ({"symbol": "atoi", "original": "my_atoi"}, "hook/no-variable", "it is no pointer"),
    ({"symbol": "[as]t*[ni]", "function": "my_atoi", "original": "real_atoi"},
     "hook/two-originals", "asks for the first"),
    ({"symbol": "atoi", "wth": "x"}, "config/unknown-key", "known are: symbol, of"),
    ({"symbol": "atoi", "pointers": "no"}, "config/wrong-type", "true or false"),
    ({"symbol": "atoi", "callers": "all"}, "config/wrong-type", "a list of texts"),
    ({"function": "my_atoi"}, "config/missing-setting", "`symbol`"),
    ({"symbol": "atoi", "with": "./here.so"}, "hook/bad-rule", "working folder"),
])  # fmt: skip
def test_errors(bench: Bench, rule: Rule, code: str, note: str) -> None:
    hooks = bench.library("liboriginals.so", ORIGINALS)
    program = bench.compile("user", USER.replace("printf(", "fprintf(stdout, "), "-no-pie")
    whole = {"with": str(hooks), "function": "my_atoi", **rule}
    result = bench.spidl("build", [whole], "-o", "image", program)
    assert (result.stdout, result.returncode) == ("", 2), result.stderr
    assert f"error[{code}]" in result.stderr
    assert "modules.hook: rules[0]" in result.stderr
    assert note in result.stderr


@pytest.mark.parametrize("text", ["atoi", "atoi:my_atoi", ":f:/x", "a:b:c:d:e"])
def test_a_bad_line(bench: Bench, text: str) -> None:
    result = bench.spidl("build", text, "-o", "image", "/usr/bin/true")
    assert "error[hook/bad-rule]" in result.stderr


def test_a_missing_object(bench: Bench) -> None:
    result = bench.spidl("build", "atoi::/no/such.so", "-o", "image", "/usr/bin/true")
    assert result.returncode == 2
    assert "/no/such.so" in result.stderr


def test_a_pointer_to_an_indirect_function_cannot_be_left_alone(bench: Bench) -> None:
    hooks = bench.library("liboriginals.so", ORIGINALS)
    program = bench.compile("user", USER.replace("= {atoi}", "= {(void *)strlen}"), "-fPIE", "-pie")
    rule: Rule = {"symbol": "strlen", "with": str(hooks), "function": "my_strlen",
                  "original": "real_strlen", "pointers": False}  # fmt: skip
    result = bench.spidl("build", [rule], "-o", "image", program)
    assert "error[hook/indirect]" in result.stderr


def test_the_page(tmp_path: Path) -> None:
    assert follow("hook.md", ["who.c", "place.c", "hooks.c"], tmp_path) == 8
