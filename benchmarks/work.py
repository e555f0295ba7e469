"""Real work of many processes: a build with its compiler as images, a script with its tools so."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Work, spread
from benchmarks.measure import Candidate, count_programs, progress
from benchmarks.workspace import SYSTEM_PATH, Workspace


@dataclass(frozen=True, slots=True)
class Source:
    """A small real project, as Debian keeps it."""

    name: str
    url: str
    sha256: str


LUA = Source(
    "lua 5.4.4",
    "http://deb.debian.org/debian/pool/main/l/lua5.4/lua5.4_5.4.4.orig.tar.gz",
    "164c7849653b80ae67bec4b7473b884bf5cc8d2dca05653475ec2ed27b9ebf61",
)
HELLO = Source(
    "GNU hello 2.10",
    "http://deb.debian.org/debian/pool/main/h/hello/hello_2.10.orig.tar.gz",
    "31e066137a962676e89f69d1b65382de95a7ef7d914b8cb956f41ea72e0f516b",
)
_PROJECT_FILES = 150
"""C files of the project that is generated where there is no network."""

TOOLS = (
    "sh", "bash", "sed", "grep", "egrep", "sort", "awk", "mawk", "expr", "cat", "rm", "mv", "cp",
    "ln", "ls", "mkdir", "rmdir", "chmod", "touch", "tr", "cut", "head", "tail", "wc", "uniq",
    "date", "uname", "hostname", "basename", "dirname", "test", "env", "sleep", "diff", "cmp",
    "install", "make", "m4", "perl", "git", "gcc", "ar", "ranlib", "nm", "strip", "objdump",
)  # fmt: skip
"""What a configure script and the script below start by name."""
_SCRIPT = """
i=0
while [ $i -lt {rounds} ]; do
    i=$((i + 1))
    printf '%s\\n' gamma alpha beta > "$1/words"
    sed -e 's/a/A/g' "$1/words" > "$1/out"
    grep -c amm "$1/words" > "$1/count"
    sort "$1/words" > "$1/sorted"
    tr a-z A-Z < "$1/sorted" | cut -c1-3 | uniq | wc -l > "$1/count"
    git --version > "$1/version"
    perl -e 'print 1' > "$1/out"
    ls "$1" > "$1/names"
    rm -f "$1/out" "$1/count"
done
"""
_ROUNDS = 60


@dataclass(frozen=True, slots=True)
class Task:
    """One thing to do, plain and with images; ``reset`` runs before each, untimed."""

    name: str
    what: str
    folder: Path
    plain: Sequence[str]
    images: Sequence[str]
    path: str
    """PATH of the run with images."""
    reset: Sequence[str] = ()
    runs: int = 5


def measure_work(space: Workspace) -> list[Work]:
    """The script; then the builds, with gcc's own programs found through ``-B``."""
    progress("enabling the tools of a build")
    # The driver names its passes; where they lie is its own affair (gcc -print-prog-name).
    passes = [_pass(name) for name in ("cc1", "as", "collect2", "ld")]
    tools = [path for name in TOOLS if (path := shutil.which(name, path=SYSTEM_PATH))]
    folder = space.enable(*passes, *_distinct(tools))
    tasks = [_script(space, folder)]
    compiler = f"gcc -B{folder}/"
    if space.quick:
        tasks.append(_generated(space, folder, compiler, files=12))
    else:
        try:
            lua, hello = _unpack(LUA, space), _unpack(HELLO, space)
        except OSError as error:
            print(f"numbers: no sources ({error}); a generated project instead", file=sys.stderr)
            tasks.append(_generated(space, folder, compiler, files=_PROJECT_FILES))
        else:
            tasks += _builds(lua, hello, folder, compiler)
    return [_measure(task, space) for task in tasks]


def _pass(name: str) -> str:
    """The program that gcc runs for one of its passes."""
    done = subprocess.run(
        ["gcc", f"-print-prog-name={name}"], capture_output=True, text=True, check=True
    )
    found = done.stdout.strip()
    path = found if "/" in found else shutil.which(found, path=SYSTEM_PATH)
    if path is None:
        sys.exit(f"numbers: gcc has no {name}")
    return path


def _distinct(paths: Sequence[str]) -> list[str]:
    """Without scripts, which no linker starts (egrep is one)."""
    found = []
    for path in paths:
        with open(path, "rb") as file:
            if file.read(4) == b"\x7fELF":
                found.append(path)
    return found


def _unpack(source: Source, space: Workspace) -> Path:
    """Fetch and unpack; OSError where that cannot be, or where the file is another one."""
    progress(f"fetching {source.name}")
    with urllib.request.urlopen(source.url, timeout=30) as response:
        content: bytes = response.read()
    if hashlib.sha256(content).hexdigest() != source.sha256:
        raise OSError(f"{source.url} is not the file that was measured before")
    folder = space.new_folder("source")
    subprocess.run(["tar", "-xz", "-C", str(folder)], input=content, check=True)
    (inside,) = folder.iterdir()
    return inside


def _builds(lua: Path, hello: Path, folder: Path, compiler: str) -> list[Task]:
    path = f"{folder}:{SYSTEM_PATH}"
    make = ["make", "-s", "-C", str(lua / "src"), "linux"]
    configure = ["sh", "./configure", "-q"]
    # The tree must be configured before it is built: by the task before.
    return [
        Task("make lua", "gcc -O2 over 34 files, ar, two programs", lua, [*make, "CC=gcc"],
             [*make, f"CC={compiler}"], path, ["make", "-s", "-C", str(lua / "src"), "clean"], 4),
        Task("make lua, -O0", "the same without optimization", lua,
             [*make, "CC=gcc", "CFLAGS=-O0 -DLUA_COMPAT_5_3 -DLUA_USE_LINUX"],
             [*make, f"CC={compiler}", "CFLAGS=-O0 -DLUA_COMPAT_5_3 -DLUA_USE_LINUX"], path,
             ["make", "-s", "-C", str(lua / "src"), "clean"], 5),
        Task("configure hello", "GNU hello's configure script", hello,
             [*configure, "CC=gcc"], [*configure, f"CC={compiler}"], path, (), 3),
        Task("make hello", "GNU hello after it", hello,
             ["make", "-s", "CC=gcc"], ["make", "-s", f"CC={compiler}"], path,
             ["make", "-s", "clean"], 5),
    ]  # fmt: skip


def _generated(space: Workspace, folder: Path, compiler: str, *, files: int) -> Task:
    """A project of small C files that include what C files include."""
    place = space.new_folder("project")
    for i in range(files):
        (place / f"part{i}.c").write_text(
            "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
            f"int part{i}(const char *s) {{ char *t = malloc(strlen(s) + 9);\n"
            f'    int n = sprintf(t, "%s{i}", s); free(t); return n; }}\n',
            encoding="ascii",
        )
    (place / "main.c").write_text("int main(void) { return 0; }\n", encoding="ascii")
    (place / "Makefile").write_text(
        "CC = gcc\nobjects = $(patsubst %.c,%.o,$(wildcard *.c))\n"
        "program: $(objects)\n\t$(CC) -o $@ $^\n%.o: %.c\n\t$(CC) -O1 -c -o $@ $<\n"
        "clean:\n\trm -f program $(objects)\n",
        encoding="ascii",
    )
    make = ["make", "-s", "-C", str(place)]
    return Task(
        "make, generated", f"gcc -O1 over {files + 1} small generated files", place,
        [*make, "CC=gcc"], [*make, f"CC={compiler}"], f"{folder}:{SYSTEM_PATH}",
        [*make, "clean"], 2 if space.quick else 5,
    )  # fmt: skip


def _script(space: Workspace, folder: Path) -> Task:
    place = space.new_folder("script")
    rounds = 5 if space.quick else _ROUNDS
    (place / "work.sh").write_text(_SCRIPT.format(rounds=rounds), encoding="ascii")
    argv = ["sh", str(place / "work.sh"), str(place)]
    return Task("shell script", "sed, grep, sort, tr, git, perl, ls in a loop", place, argv, argv,
                f"{folder}:{SYSTEM_PATH}", (), 4 if space.quick else 12)  # fmt: skip


def _measure(task: Task, space: Workspace) -> Work:
    """Turn about, after one of each; a task that fails in either way ends the measurement."""
    progress(f"working: {task.name}")
    environment = {"plain": {"PATH": SYSTEM_PATH}, "images": {"PATH": task.path}}
    argv = {"plain": task.plain, "images": task.images}
    seconds: dict[str, list[float]] = {"plain": [], "images": []}
    for run in range(task.runs + 1):
        for way in ("plain", "images") if run % 2 else ("images", "plain"):
            if task.reset:
                _do(task.reset, task.folder, environment["plain"])
            began = time.perf_counter()
            _do(argv[way], task.folder, environment[way])
            if run:
                seconds[way].append(time.perf_counter() - began)
    if task.reset:
        _do(task.reset, task.folder, environment["plain"])
    inside = f"cd {shlex.quote(str(task.folder))} && exec {shlex.join(task.plain)}"
    processes = count_programs(Candidate(["/bin/sh", "-c", inside], environment["plain"])) - 1
    return {
        "name": task.name, "what": task.what, "processes": processes,
        "plain": spread(seconds["plain"]), "images": spread(seconds["images"]),
        "faster": spread([p / i for p, i in zip(seconds["plain"], seconds["images"], strict=True)]),
    }  # fmt: skip


def _do(argv: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        argv, cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"numbers: {shlex.join(argv)} failed\n{done.stderr[-2000:]}")
