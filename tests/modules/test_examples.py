"""Each example module on a real program: its effect, and nothing but its effect."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.needs import tool

EXAMPLES = Path(__file__).parents[2] / "examples" / "modules"
FILES = sorted(EXAMPLES.glob("*.py"))
PYTHON = "/usr/bin/python3"  # of the system: a program with many libraries

OPEN_SOCKET = "import socket; socket.socket()"
OPEN_FILE = "print(open('/proc/self/comm').read() != '')"

COMPILERS = {"gcc": "gcc", "musl-gcc": "musl-tools"}
"""Compilers and their Debian packages."""


class Bench:
    """A folder with programs of the test and an image cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("LD_", "SPIDL_"))},
            "SPIDL_CACHE": str(folder / "cache"),
            "SPIDL_TRACEBACK": "1",
        }

    def start(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60,
            cwd=self.folder, env={**self.environment, **variables},
        )  # fmt: skip

    def spidl(
        self, module: str | Path, program: str, *arguments: str, set_: tuple[str, ...] = (),
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """spidl run --with examples/modules/MODULE.py -- PROGRAM ARGUMENT..."""
        options = [word for setting in set_ for word in ("--set", setting)]
        path = EXAMPLES / f"{module}.py" if isinstance(module, str) else module
        return self.start(sys.executable, "-m", "spidl", "run", "--with", str(path), *options,
                          "--", program, *arguments, **variables)  # fmt: skip

    def compile(self, output: str, source: str, *flags: str, cc: str = "gcc") -> str:
        tool(cc, COMPILERS[cc])
        path = self.folder / f"{output}.c"
        path.write_text(source)
        command = [cc, "-O1", "-Wall", "-o", str(self.folder / output), str(path), *flags]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return str(self.folder / output)

    def library(self, name: str, source: str, *flags: str, cc: str = "gcc") -> str:
        return self.compile(name, source, "-shared", "-fPIC", f"-Wl,-h,{name}", *flags, cc=cc)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def same_but_stderr(
    one: subprocess.CompletedProcess[str], other: subprocess.CompletedProcess[str]
) -> bool:
    return (one.stdout, one.returncode) == (other.stdout, other.returncode)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_at_most_twenty_lines_and_only_the_public_api(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 20
    assert max(map(len, text.splitlines())) <= 100
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    imported = {
        node.module if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert {name for name in imported if name not in sys.stdlib_module_names} == {"spidl.api"}


def test_every_example_is_tested() -> None:
    assert [path.stem for path in FILES] == [
        "answer", "count", "hook", "no_sockets", "refuse", "trace",
    ]  # fmt: skip


def test_count(bench: Bench) -> None:
    plain = bench.start("ls", "/")
    counted = bench.spidl("count", "ls", "/")
    assert same_but_stderr(plain, counted)
    head, *rows = counted.stderr.splitlines()
    assert head.split() == ["exports", "binds", "object"]
    table = {name: (int(exports), int(binds)) for exports, binds, name in map(str.split, rows)}
    assert {"ls", "libc.so.6", "ld-linux-x86-64.so.2"} <= set(table)
    assert table["libc.so.6"] == (_exported("libc.so.6"), table["libc.so.6"][1])
    assert 50 < table["ls"][1] < 1000
    assert bench.spidl("count", "ls", "/").stderr == "", "a kept image is not linked again"


def test_a_changed_module_links_again(bench: Bench) -> None:
    """Named in the settings as well as with --with, beside which it is found."""
    module = bench.folder / "mine.py"
    text = (EXAMPLES / "count.py").read_text()
    module.write_text(text)
    settings = bench.folder / "spidl.toml"
    settings.write_text('pipeline = ["preload", "sysv", "gnu", "mine.py"]\n')
    command = (sys.executable, "-m", "spidl", "run", "--config", str(settings), "--", "true")
    assert "exports" in bench.start(*command).stderr
    assert bench.start(*command).stderr == ""
    module.write_text(text.replace("exports'", "EXPORTS'"))
    assert "EXPORTS" in bench.start(*command).stderr


def _exported(soname: str) -> int:
    """How many symbols binutils says a library exports."""
    where = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    path = next(line.split(" => ")[1] for line in where.splitlines() if f"\t{soname} " in line
                and "x86-64" in line)  # fmt: skip
    lines = subprocess.run(
        ["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True
    ).stdout
    return sum(1 for line in lines.splitlines() if len(line.split()) == 3)


def test_trace(bench: Bench) -> None:
    """What it prints for the program is what ld.so says it binds (LD_DEBUG=bindings)."""
    plain = bench.start("true")
    traced = bench.spidl("trace", "true")
    assert same_but_stderr(plain, traced)
    ours = {
        (found[1], found[2])
        for line in traced.stderr.splitlines()
        if (found := re.fullmatch(r"true: (\S+) -> (\S+)", line)) and found[2] != "nothing"
    }
    said = bench.start("true", LD_DEBUG="bindings", LD_BIND_NOW="1").stderr
    theirs = {
        (f"{found[2]}@{found[3]}", Path(found[1]).name)
        for found in re.finditer(
            r"binding file true \[0\] to (\S+) \[0\]: normal symbol `(.+?)' \[(.+?)\]", said
        )
    }
    assert len(theirs) > 20
    assert ours == theirs
    assert "true: __gmon_start__ -> nothing" in traced.stderr.splitlines()


HOOKS = """
#include <stdlib.h>
#include <string.h>
char *hooked_getenv(const char *name)
{
    char *value = getenv(name);
    return value && strcmp(name, "GREETING") == 0 ? "hooked" : value;
}
"""
ASKS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
int main(void)
{
    char *(*original)(const char *) = (char *(*)(const char *))dlsym(RTLD_DEFAULT, "getenv");
    printf("%s %s %s %s\\n", getenv("GREETING"), getenv("OTHER"), original("GREETING"),
           secure_getenv("GREETING"));
    return 0;
}
"""
HOOK = ("hook.symbol=getenv", "hook.library=./libhooks.so", "hook.replacement=hooked_getenv")


def test_hook(bench: Bench) -> None:
    bench.library("libhooks.so", HOOKS)
    program = bench.compile("asks", ASKS)
    variables = {"GREETING": "hello", "OTHER": "same"}
    plain = bench.start(program, **variables)
    hooked = bench.spidl("hook", program, set_=HOOK, **variables)
    assert plain.stdout == "hello same hello hello\n"
    assert hooked.stdout == "hooked same hello hello\n"
    assert (hooked.returncode, hooked.stderr) == (plain.returncode, plain.stderr) == (0, "")


def test_hook_changes_only_the_bindings_of_its_symbol(bench: Bench) -> None:
    """Every other binding of a real program is what it is without the module."""
    bench.library("libhooks.so", HOOKS)
    script = "import os; print(os.environ['GREETING'])"
    plain = bench.start(PYTHON, "-c", script, GREETING="hello")
    hooked = bench.spidl("hook", PYTHON, "-c", script, set_=HOOK, GREETING="hello")
    assert (hooked.stdout, hooked.stderr) == (plain.stdout, plain.stderr) == ("hello\n", "")
    both = bench.start(
        sys.executable, "-m", "spidl", "run", "--with", str(EXAMPLES / "hook.py"),
        *(word for setting in HOOK for word in ("--set", setting)),
        "--with", str(EXAMPLES / "trace.py"), "--", PYTHON, "-c", "",
    )  # fmt: skip
    without = bench.spidl("trace", PYTHON, "-c", "")
    here, there = set(both.stderr.splitlines()), set(without.stderr.splitlines())
    gone = there - here
    assert gone
    assert all(": getenv@GLIBC_2.2.5 -> libc.so.6" in line for line in gone)
    new = {line for line in here - there if not line.startswith("libhooks.so: ")}
    assert new == {line.replace("libc.so.6", "libhooks.so") for line in gone}
    assert "libhooks.so: getenv@GLIBC_2.2.5 -> libc.so.6" in here, "its own call is the original's"


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ((), "config/missing-setting"),
        ((*HOOK[:2], "hook.replacement=nosuch"), "relocate/no-definition"),
        ((HOOK[0], "hook.library=./libnosuch.so", HOOK[2]), "collect/not-found"),
    ],
)
def test_hook_with_bad_settings(bench: Bench, settings: tuple[str, ...], code: str) -> None:
    bench.library("libhooks.so", HOOKS)
    program = bench.compile("asks", ASKS)
    result = bench.spidl("hook", program, set_=settings)
    assert result.returncode == 2
    assert f"spidl: error[{code}]" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_sockets(bench: Bench) -> None:
    plain = bench.start(PYTHON, "-c", OPEN_SOCKET)
    assert plain.returncode == 0
    filtered = bench.spidl("no_sockets", PYTHON, "-c", OPEN_SOCKET)
    assert filtered.returncode == 1
    assert filtered.stderr.endswith("PermissionError: [Errno 1] Operation not permitted\n")
    other = bench.spidl("no_sockets", PYTHON, "-c", OPEN_FILE)
    assert same_but_stderr(other, bench.start(PYTHON, "-c", OPEN_FILE))
    assert other.stdout == "True\n"


def test_no_sockets_never_runs_without_its_filter(bench: Bench) -> None:
    """A guard fails (a variable that the link did not see): refused, not the plain way."""
    image = bench.folder / "image"
    built = bench.start(
        sys.executable, "-m", "spidl", "build", "--with", str(EXAMPLES / "no_sockets.py"),
        PYTHON, "-o", str(image),
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert bench.start(str(image), "-c", OPEN_SOCKET).returncode == 1
    refused = bench.start(str(image), "-c", OPEN_SOCKET, LD_PRELOAD="/nowhere.so")
    assert refused.returncode == 126
    assert "spidl: error[start/policy]" in refused.stderr


def test_refuse(bench: Bench) -> None:
    setting = ("refuse.library=libm.so.6",)
    refused = bench.spidl("refuse", PYTHON, "-c", "print(1)", set_=setting)
    assert (refused.returncode, refused.stdout) == (2, "")
    lines = refused.stderr.splitlines()
    assert lines[0].startswith("spidl: error[refuse/library]: python3")
    assert lines[0].endswith(" may not use libm.so.6")
    assert any(line.startswith("   = help: ") for line in lines)
    allowed = bench.spidl("refuse", "ls", "/", set_=setting)
    plain = bench.start("ls", "/")
    assert same_but_stderr(allowed, plain)
    assert allowed.stderr == ""


USES = "int answer(void);\nint use(void) { return answer(); }\n"
PRINTS = """
#include <stdio.h>
int use(void);
int main(void) { printf("%d\\n", use()); return 0; }
"""
RENAME = '''
"""Answers `answer` with the address of other_answer; no object defines `answer`."""
from spidl.api import Definition, Dso, Link, Module, Pipeline, SymbolRequest

class Rename(Module):
    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.is_root:
            pipeline.resolver(self.resolve)

    def resolve(self, request: SymbolRequest, dso: Dso, link: Link) -> Definition | None:
        other = link.known("libother.so")
        assert other is not None
        return link.definition(other, "other_answer") if request.name == "answer" else None
'''


def _program_that_lacks_a_function(bench: Bench, cc: str, *flags: str) -> str:
    bench.library("libuse.so", USES, *flags, cc=cc)
    bench.library("libother.so", "int other_answer(void) { return 43; }\n", cc=cc)
    return bench.compile(
        "prints", PRINTS, f"-L{bench.folder}", "-luse", "-Wl,--no-as-needed", "-lother",
        f"-Wl,-rpath,{bench.folder}", "-Wl,--unresolved-symbols=ignore-in-shared-libs", cc=cc,
    )  # fmt: skip


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("flag", ["-Wl,-z,lazy", "-Wl,-z,now", "-fno-plt"])
def test_answer(bench: Bench, cc: str, flag: str) -> None:
    program = _program_that_lacks_a_function(bench, cc, flag)
    plain = bench.start(program)
    assert plain.returncode != 0
    assert "answer" in plain.stderr
    answered = bench.spidl("answer", program)
    assert (answered.stdout, answered.stderr, answered.returncode) == ("42\n", "", 0)


def test_answer_instead_of_a_library_that_is_not_there(bench: Bench) -> None:
    """The object satisfies the DT_NEEDED of its name: the program has never seen the file."""
    stub = bench.library("libanswer.so", "int answer(void) { return 0; }\n")
    source = PRINTS.replace("use", "answer")
    program = bench.compile("prints", source, f"-L{bench.folder}", "-lanswer")
    os.unlink(stub)
    assert "libanswer.so" in bench.start(program).stderr
    answered = bench.spidl("answer", program)
    assert (answered.stdout, answered.stderr, answered.returncode) == ("42\n", "", 0)


@pytest.mark.parametrize("cc", COMPILERS)
@pytest.mark.parametrize("flag", ["-Wl,-z,lazy", "-Wl,-z,now", "-fno-plt"])
def test_a_symbol_that_only_a_resolver_answers(bench: Bench, cc: str, flag: str) -> None:
    """ld.so by itself would not start the program: it is shown the name (targets/exec/shown.py)."""
    program = _program_that_lacks_a_function(bench, cc, flag)
    module = bench.folder / "rename.py"
    module.write_text(RENAME)
    answered = bench.spidl(module, program)
    assert (answered.stdout, answered.stderr, answered.returncode) == ("43\n", "", 0)


VALUE = """
#include <stdio.h>
int value = 1;
int main(void) { printf("%d\\n", value); return 0; }
"""
CHANGE = '''
"""Changes the word at `value`."""
import numpy as np
from spidl.api import POST_RELOCATE, Dso, Link, Module, Pipeline

class Change(Module):
    owned: bool

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.weak(POST_RELOCATE, self.change)

    def change(self, link: Link) -> None:
        at = link.definition(link.root, "value").address
        if self.owned:
            link.space.patch(at, b"\\7", link.by)
        else:
            link.space.write(np.array([at], np.uint64), np.array([7], np.uint64), link.by, width=4)
'''


def test_a_word_that_differs_must_be_owned(bench: Bench) -> None:
    """Each link is compared with what ld.so does; only what a module owns may differ."""
    program = bench.compile("value", VALUE, "-rdynamic")
    module = bench.folder / "change.py"
    module.write_text(CHANGE)
    owned = bench.spidl(module, program, set_=("change.owned=true",))
    assert (owned.stdout, owned.stderr, owned.returncode) == ("7\n", "", 0)
    stray = bench.spidl(module, program, set_=("change.owned=false",))
    assert (stray.stdout, stray.returncode) == ("", 2)
    assert "spidl: error[adopt/differs]" in stray.stderr
    assert "written by change in post-relocate" in stray.stderr
