"""Traced calls: nothing changes for the program, and every call is counted and told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.needs import tool

from .conftest import Workshop
from .harness import SOURCE
from .pages import follow

SHAPES = {
    "ten": "ten(a: int, b: long, c: str, d: double, e: float, f: uint, g: long, h: int, i: str, "
    "j: double) -> double",
    "many_doubles": "f(a: double, b: double, c: double, d: double, e: double, f: double, "
    "g: double, h: double, i: double, j: double) -> double",
    "sum": "sum(count: int, ...) -> long",
    "sum_doubles": "sum_doubles(count: int, ...) -> double",
    "make_small": "make_small(a: long, b: double) -> long",
    "make_big": "make_big(a: long, b: long) -> struct",
    "make_complex": "make_complex(a: double, b: double) -> double",
    "halve": "halve(a: float) -> float",
    "leave": "leave(to: ptr, value: int) -> void",
    "call_back": "call_back(function: ptr, argument: int) -> int",
}
TOLD = """
ten(-1, 2, "three", 4.5, 5.25, 6, 7, 8, "nine", 10.125) = 50.875
many_doubles(1, 2, 3, 4, 5, 6, 7, 8, 9, 10) = 385
sum(9, ...)
sum_doubles(10, ...)
make_small(41, 1.5) = 42
make_big(5, 3) = {...}
make_long_double(?)
make_complex(1, -2) = 1
take_big(?)
halve(3) = 1.5
_exit(0)
_exit(3)
vfork()
""".strip().splitlines()
"""Lines of call_shapes with these prototypes and the table's; `sum` and some are not waited for."""


def _found(pattern: str, text: str) -> str:
    """The first group of a match."""
    found = re.search(pattern, text, re.MULTILINE)
    assert found is not None, text
    return found[1]


class Bench:
    """Programs of the test, and an image cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workshop = Workshop(folder)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("LD_", "SPIDL_"))},
            "SPIDL_CACHE": str(folder / "cache"), "SPIDL_TRACEBACK": "1", "NO_COLOR": "1",
            "PYTHONPATH": str(SOURCE),
        }  # fmt: skip

    def start(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=120, cwd=self.folder,
            env={**self.environment, **variables}, errors="backslashreplace",
        )  # fmt: skip

    def spidl(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.start(sys.executable, "-m", "spidl", *words, **variables)

    def counts(self, *words: str | Path, options: tuple[str, ...] = ()) -> Counter[tuple[str, str]]:
        """Calls by (caller, symbol) of a program that behaves as without a trace."""
        plain = self.start(*words)
        table = self.folder / "counts.json"
        traced = self.spidl("trace", *options, "--json", "-o", table, *words)
        assert (traced.stdout, traced.stderr) == (plain.stdout, plain.stderr)
        assert traced.returncode == (
            plain.returncode if plain.returncode >= 0 else 128 - plain.returncode
        )
        found: Counter[tuple[str, str]] = Counter()
        for row in json.loads(table.read_text())["calls"]:
            found[row["caller"], row["symbol"]] += row["calls"]
        return found

    def log(self, rules: list[dict[str, object]], program: Path) -> list[str]:
        """The lines of a program that behaves as without a trace, without the thread's number."""
        lines = self.folder / "log"
        lines.unlink(missing_ok=True)
        text = ", ".join(
            "{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in rule.items()) + "}"
            for rule in rules
        )
        plain = self.start(program)
        traced = self.spidl("run", "--with", "trace", "--set", f"trace.rules=[{text}]",
                            "--set", f"trace.output={lines}", "--", program)  # fmt: skip
        assert (traced.stdout, traced.stderr) == (plain.stdout, plain.stderr)
        assert (traced.returncode, plain.returncode) == (0, 0)
        return [line.partition(" ")[2] for line in lines.read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def _shapes(bench: Bench, *flags: str) -> Path:
    bench.workshop.library("libshapes.so", "shapes.c")
    return bench.workshop.program(
        "call_shapes", "call_shapes.c", "libshapes.so", flags=("-pthread", "-mavx2", *flags)
    )


@pytest.mark.parametrize("flags", [("-Wl,-z,lazy",), ("-fno-plt",), ("-no-pie",)])
def test_shapes_counted(bench: Bench, flags: tuple[str, ...]) -> None:
    """Threads, a signal handler, children, jumps; through PLT slots and through GOT slots."""
    counts = bench.counts(_shapes(bench, *flags))
    calls = {symbol: made for (caller, symbol), made in counts.items() if caller == "call_shapes"}
    assert calls["sum"] == 1 + 5 + (1000 + 1001 + 1002 + 1003) + 1 + 1  # both processes'
    assert calls["call_back"] == 1 + 5
    assert (calls["leave"], calls["ten"], calls["fork"], calls["_exit"]) == (3, 1, 1, 2)


@pytest.mark.parametrize("lines", ["call", "return", "both"])
def test_shapes_told(bench: Bench, lines: str) -> None:
    """Arguments in registers of both kinds and on the stack; results; what cannot be waited for."""
    program = _shapes(bench)
    rules: list[dict[str, object]] = [
        {"symbol": name, "mode": "log", "lines": lines, "prototype": text}
        for name, text in SHAPES.items()
    ]
    rules.append({"symbol": "*", "mode": "log", "lines": lines, "callers": ["call_shapes"]})
    told = bench.log(rules, program)
    own = [line.removeprefix("call_shapes ") for line in told]
    if lines == "return":
        assert set(TOLD) <= set(own)
        assert "call_back = 1" not in own
        # Those inside end first.
        back = [line.partition(" = ")[2] for line in own if line.startswith("call_back(")]
        assert back == ["1", "3", "6", "10", "15", "21"]
        assert not any(line.startswith("leave") for line in own), "longjmp leaves it behind"
    else:
        assert {line.partition(" = ")[0] for line in TOLD} <= set(own)
        assert sum(line.startswith("leave(") for line in own) == 3
        assert ("call_back = 21" in own) == (lines == "both")
        assert ("halve = 1.5" in own) == (lines == "both")
    assert Counter(line.partition("(")[0] for line in own)["sum"] == 4014


@pytest.mark.parametrize("lines", ["call", "both"])
def test_exceptions_and_cancellation(bench: Bench, lines: str) -> None:
    """They unwind through the frames of logged calls, those inside libstdc++ and libgcc too."""
    bench.workshop.library("libthrower.so", "thrower.cc")
    program = bench.workshop.program("catcher", "catcher.cc", "libthrower.so", flags=("-pthread",))
    rule: dict[str, object] = {
        "symbol": "*pass_on*",
        "mode": "log",
        "lines": lines,
        "prototype": "pass_on(function: ptr, argument: int, count: ptr) -> int",
    }
    told = bench.log([rule, {"symbol": "*", "mode": "log", "lines": lines}], program)
    arguments = [found[1] for line in told if (found := re.search(r"pass_on.*, (-?\d), ", line))]
    assert arguments == ["-1", "0", "1", "2", "3", "1"]
    assert not any("pass_on" in line and " = " in line for line in told)


def test_bad_pointers_are_told_as_numbers(bench: Bench) -> None:
    (bench.folder / "bad.c").write_text("""
        #include <fcntl.h>
        #include <stdio.h>
        #include <string.h>
        #include <sys/mman.h>
        #include <unistd.h>
        int main(void)
        {
            char *end = (char *)mmap(0, 8192, 3, 0x22, -1, 0) + 4096;
            munmap(end, 4096);
            strcpy(end - 4, "end");
            memcpy(end - 8, "abcdefgh", 8);
            errno_of(open((char *)16, 0) + open(0, 0) + open("/no\\n\\001", 0) + open(end - 8, 0));
            return 0;
        }
    """.replace("errno_of(", "printf(\"%d\\n\", "))  # fmt: skip
    program = bench.folder / "bad"
    subprocess.run(["gcc", "-w", "-o", program, program.with_suffix(".c")], check=True)
    told = bench.log([{"symbol": "open", "mode": "log"}], program)
    assert [_found(r"^bad open\((.*), 0x0, 0\d+\) = -1$", line) for line in told] == [
        "0x10", "0x0", r'"/no\n\x01"', '"abcdefgh"...',
    ]  # fmt: skip


def test_a_killed_program_is_counted(bench: Bench) -> None:
    counts = bench.counts(
        "/usr/bin/perl", "-e", "kill 9, $$", options=("--symbol", "kill", "--symbol", "mem*")
    )
    assert sum(n for (_, symbol), n in counts.items() if symbol == "kill") == 1


def test_the_output_of_a_program_that_closes_everything(bench: Bench) -> None:
    """Its descriptor is gone, and then another file's: the log goes on, the file stays its own."""
    other = bench.folder / "other"
    script = f"""
        use POSIX; POSIX::close($_) for 3..1023;
        open(my $f, '>', '{other}'); POSIX::dup2(fileno($f), $_) for 4..1000;
        print $f getppid() > 0 ? "own\\n" : "";
    """
    lines = bench.folder / "log"
    result = bench.spidl(
        "trace", "--symbol", "getppid", "--symbol", "write", "--log", "-o", lines,
        "/usr/bin/perl", "-e", script,
    )  # fmt: skip
    assert (result.stderr, result.returncode) == ("", 0)
    assert other.read_text() == "own\n"
    assert re.search(r"getppid\(\) = \d+\n.*\d+ \S+ write\(\d+, \"own\\n\", 4\) = 4\n",
                     lines.read_text(), re.DOTALL)  # fmt: skip


# -- oracles: what others count -------------------------------------------------------------------

SQL = "create table t(a); insert into t values (1),(2),(3); select a from t order by a desc"
GDB = """
set pagination off
set breakpoint pending on
set debuginfod enabled off
tbreak __libc_start_main
run
python
class Count(gdb.Breakpoint):
    made = 0
    def stop(self):
        caller = int(gdb.parse_and_eval("*(unsigned long *)$rsp"))
        Count.made += gdb.solib_name(caller) is None
        return False
Count("*(long)&getenv")
end
continue
python print("COUNT", Count.made)
"""


def test_sqlite3_as_ltrace_counts(bench: Bench) -> None:
    ltrace = tool("ltrace", "ltrace")
    tool("sqlite3", "sqlite3")
    names = ("strcmp", "memcmp", "strlen", "memset")
    wanted = "+".join(f"{name}@libsqlite3.so.0" for name in names)
    told = bench.folder / "ltrace"
    bench.start(ltrace, "-e", wanted, "-o", told, "sqlite3", ":memory:", SQL)
    theirs = Counter(re.findall(r"libsqlite3\.so\.0->(\w+)\(", told.read_text()))
    assert theirs.total() > 5, "ltrace saw the calls"
    options = [word for name in names for word in ("--symbol", name)]
    ours = bench.counts("sqlite3", ":memory:", SQL,
                        options=("--caller", "libsqlite3.so.0", *options))  # fmt: skip
    assert {symbol: made for (_, symbol), made in ours.items()} == dict(theirs)


def test_git_as_gdb_counts(bench: Bench) -> None:
    """Git calls through GOT slots, which ltrace does not see; gdb tells the caller's object."""
    script = bench.folder / "count.gdb"
    script.write_text(GDB)
    git = tool("git", "git")
    seen = bench.start(tool("gdb", "gdb"), "-nx", "-batch", "-x", script, "--args", git,
                       "--version")  # fmt: skip
    theirs = int(_found(r"^COUNT (\d+)$", seen.stdout))
    ours = bench.counts(git, "--version", options=("--caller", "git", "--symbol", "getenv"))
    assert ours == {("git", "getenv"): theirs}
    assert theirs > 5


@pytest.mark.parametrize("command", [
    ("python3", "-c", "import json, decimal; print(json.dumps([1, str(decimal.Decimal(2))]))"),
    ("git", "--version"), ("perl", "-e", "print join ',', map { $_ ** 2 } 1..9"),
], ids=lambda command: command[0])  # fmt: skip
def test_everything_of_a_real_program(bench: Bench, command: tuple[str, ...]) -> None:
    """All bindings of all objects go through thunks, and the program does what it does."""
    tool(command[0], command[0])
    counts = bench.counts(f"/usr/bin/{command[0]}", *command[1:])
    assert counts.total() > 200
    assert sum(made for (_, symbol), made in counts.items() if symbol == "__libc_start_main") == 1


# -- other ways, and errors -----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["count", "log"])
def test_musl(bench: Bench, mode: str) -> None:
    """Its linker is its libc, which relocates itself: what the program calls is seen."""
    (bench.folder / "musl.c").write_text("""
        #include <stdio.h>
        #include <stdlib.h>
        int main(void) { printf("%d\\n", atoi("41") + abs(-1)); return 0; }
    """)
    program = bench.folder / "musl"
    compiler = tool("musl-gcc", "musl-tools")
    subprocess.run([compiler, "-fno-builtin", "-o", program, program.with_suffix(".c")], check=True)
    if mode == "count":
        assert bench.counts(program, options=("--symbol", "a*")) == {
            ("musl", "atoi"): 1, ("musl", "abs"): 1,
        }  # fmt: skip
    else:
        told = bench.log([{"symbol": "atoi", "mode": "log"}], program)
        assert told == ['musl atoi("41") = 41']


def test_counts_at_exit(bench: Bench) -> None:
    """Without the command, a table goes to the output when the first process ends."""
    result = bench.spidl("run", "--with", "trace", "--set", 'trace.rules=["sum", "halve"]', "--",
                         _shapes(bench))  # fmt: skip
    rows = [line.split() for line in result.stderr.splitlines()]
    assert rows == [["4014", "call_shapes", "sum", "libshapes.so"],
                    ["1", "call_shapes", "halve", "libshapes.so"]]  # fmt: skip


def test_function_pointers_in_data_are_left_alone(bench: Bench) -> None:
    (bench.folder / "same.c").write_text("""
        #include <stdio.h>
        #include <stdlib.h>
        int (*volatile table[])(const char *) = {atoi};
        int main(void) { printf("%d %d\\n", table[0]("7"), atoi("8")); return 0; }
    """)
    program = bench.folder / "same"
    flags = ("-O0", "-fno-builtin", "-fPIE", "-pie", "-Wl,-z,lazy")
    subprocess.run(["gcc", *flags, "-o", program, program.with_suffix(".c")], check=True)
    options = ("--symbol", "atoi")
    assert bench.counts(program, options=options) == {("same", "atoi"): 1}
    everywhere = (*options, "--set", "trace.pointers=true")
    assert bench.counts(program, options=everywhere) == {("same", "atoi"): 2}


def test_an_interrupted_program(bench: Bench) -> None:
    """Ctrl-C ends the program; the counts are told all the same."""
    process = subprocess.Popen(
        [sys.executable, "-m", "spidl", "trace", "--symbol", "*nanosleep", "/usr/bin/sleep", "60"],
        stderr=subprocess.PIPE, text=True, env=bench.environment, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    deadline = 200
    while deadline and not _has_child_called(process.pid, "sleep"):
        deadline -= 1
        signal.sigtimedwait([], 0.1)
    os.killpg(process.pid, signal.SIGINT)
    told = process.stderr.read()
    assert process.wait() == 128 + signal.SIGINT
    assert re.search(r"^ +1  sleep +libc.so.6 +(clock_)?nanosleep$", told, re.MULTILINE), told


def _has_child_called(pid: int, name: str) -> bool:
    for task in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = task.read_text()
        except OSError:
            continue
        if f"({name})" in text and int(text.rpartition(")")[2].split()[1]) == pid:
            return "hrtimer" in (task.parent / "wchan").read_text() or " S " in text
    return False


@pytest.mark.parametrize(("rules", "code", "note"), [
    ('[{symbol = "prinf"}]', "trace/no-match", "printf"),
    ('[{symbol = "puts", callers = ["libnone.so"]}]', "trace/no-match", ""),
    ('[{symbl = "puts"}]', "config/unknown-key", "symbol, of, callers"),
    ('[{symbol = "puts", mode = "all"}]', "config/wrong-value", "count, log"),
    ('[{symbol = "puts", callers = "a"}]', "config/wrong-type", ""),
    ('[{symbol = "puts", prototype = "puts(text) -> int"}]', "trace/bad-prototype", "no type"),
    ('[{symbol = "puts", prototype = "puts text"}]', "trace/bad-prototype", "NAME(ARGUMENT"),
    ('[{symbol = "puts", prototype = "p(a: void)"}]', "trace/bad-prototype", "`void`"),
])  # fmt: skip
def test_errors(bench: Bench, rules: str, code: str, note: str) -> None:
    result = bench.spidl("build", "-o", bench.folder / "image", "--with", "trace",
                         "--set", f"trace.rules={rules}", _shapes(bench))  # fmt: skip
    assert (result.stdout, result.returncode) == ("", 2)
    assert f"error[{code}]" in result.stderr
    assert "modules.trace: rules[0]" in result.stderr
    assert note in result.stderr


def test_a_relative_output_is_an_error(bench: Bench) -> None:
    result = bench.spidl("build", "-o", bench.folder / "image", "--with", "trace",
                         "--set", "trace.output=here", "/usr/bin/true")  # fmt: skip
    assert "error[config/wrong-value]" in result.stderr


def test_the_page(tmp_path: Path) -> None:
    assert follow("trace.md", ["sort.c"], tmp_path) == 5
