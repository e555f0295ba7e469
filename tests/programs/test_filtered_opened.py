"""Libraries that a program opens by a name that it makes at run time, under its filter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from .attack import library, program
from .filtering import build
from .harness import BuildFailed, Outcome, run, spidl

MAIN = r"""
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.so", argv[1], argv[2]);
    void *plugin = dlopen(path, RTLD_NOW);
    if (!plugin) return puts(dlerror());
    long (*go)(void) = (long (*)(void))dlsym(plugin, "go");
    printf("%ld\n", go());
    return 0;
}
"""
CONSTANT = """
#include <dlfcn.h>
int main(void) {{
    long (*go)(void) = (long (*)(void))dlsym(dlopen("{plugin}", RTLD_NOW), "go");
    return go() == 0 ? 3 : 4;
}}
"""
PLUGIN = """
#include <sys/personality.h>
long go(void) { return personality(0xffffffff) == -1; }
"""
"""It asks for what it has; nothing else of these programs and of libc's start does."""
KILLED = -31


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    return library(tmp_path / "plug/odd.so", PLUGIN)


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return program(tmp_path / "main", MAIN)


def image(main: Path, **settings: object) -> Path:
    return build(main, main.parent / "image", settings, steering={})


def explained(main: Path, *options: str) -> Mapping[str, Any]:
    result = spidl(["seccomp", "explain", "--json", *options, str(main)])
    assert result.status == 0, result
    told: Mapping[str, Any] = json.loads(result.stdout)
    return told


def calls(told: Mapping[str, Any]) -> set[str]:
    return {one["call"] for one in told["allowed"]}


def test_what_comes_may_call_what_libraries_export(main: Path, plugin: Path) -> None:
    assert run([str(image(main)), str(plugin.parent), "odd"]) == Outcome(b"0\n", b"", 0)


def test_what_comes_has_what_the_program_has(main: Path, plugin: Path) -> None:
    denying = image(main, open_ended="deny")
    result = run([str(denying), str(plugin.parent), "odd"])
    assert (result.stdout, result.status) == (b"", KILLED)
    lines = result.stderr.decode().splitlines()
    assert lines[0].endswith(f"system call personality is not allowed to {main}")
    assert lines[1].startswith("  --> libc.so.6+0x")
    assert ", called from odd.so+0x" in lines[1], "not the program, which called that"
    assert len(lines) == 3
    nothing = run([str(denying), str(plugin.parent), "none"])
    assert (nothing.status, nothing.stderr) == (len(nothing.stdout), b"")


def test_refused_where_it_is_not_known(main: Path, plugin: Path) -> None:
    with pytest.raises(BuildFailed) as failure:
        image(main, open_ended="refuse")
    assert failure.value.code == "seccomp/open-ended"
    declared = {main.name: [str(plugin.parent)]}
    made = image(main, open_ended="refuse", plugins=declared)
    assert run([str(made), str(plugin.parent), "odd"]) == Outcome(b"0\n", b"", 0)


def test_plug_ins_in_the_words_of_a_command_line(main: Path, plugin: Path) -> None:
    option = f"--set=seccomp.plugins={main.name}={plugin.parent}"
    told = explained(main, option)
    assert [one["path"] for one in told["opened"] if one["name"] == "odd.so"] == [str(plugin)]
    assert told["open_ended"] == []
    known = calls(told)
    assert "personality" in known
    assert "acct" not in known
    wrong = spidl(["seccomp", "explain", '--set=seccomp.plugins={"a": ["/b"]}', str(main)])
    assert b"error[config/wrong-value]" in wrong.stderr
    assert b"NAME=VALUE" in wrong.stderr


def test_a_name_that_is_constant_is_understood(tmp_path: Path, plugin: Path) -> None:
    main = program(tmp_path / "constant", CONSTANT.format(plugin=plugin))
    told = explained(main)
    assert told["open_ended"] == []
    assert "personality" in calls(told)
    assert "acct" not in calls(told)
    assert run([str(image(main, open_ended="refuse"))]).status == 3


def test_it_is_said(main: Path) -> None:
    told = explained(main)
    (one,) = told["open_ended"]
    assert one["object"] == "main"
    assert one["way"][-1]["object"] == "main"
    assert "acct" in calls(told), "libc exports it"
    text = spidl(["seccomp", "explain", str(main)]).stdout.decode()
    assert "\nmain: may open a library by a name that it makes at run time\n" in text
    way = spidl(["seccomp", "explain", str(main), "acct"]).stdout.decode()
    assert "what main may open can call it" in way


def test_who_hands_names_on_is_not_who_names(tmp_path: Path) -> None:
    """libuv opens what its callers name: one that does not is understood."""
    libuv = library(
        tmp_path / "libuv.so.1",
        "#include <dlfcn.h>\nvoid *uv_dlopen(const char *n) { return dlopen(n, 1); } int uv;",
    )
    opens = "void *uv_dlopen(char *); int main(int n, char **v) { return !uv_dlopen(v[n - 1]); }"
    other = "extern int uv; int main(void) { return uv; }"
    told = explained(program(tmp_path / "opens", opens, libuv))
    assert [one["object"] for one in told["open_ended"]] == ["opens"]
    assert explained(program(tmp_path / "other", other, libuv))["open_ended"] == []


def test_the_search_path_of_who_opens_counts(tmp_path: Path) -> None:
    """As ld.so looks for it: where DT_RUNPATH of the library says, which the program has not."""
    odd = library(tmp_path / "deep/odd.so", PLUGIN)
    middle = library(
        tmp_path / "libmiddle.so",
        '#include <dlfcn.h>\nint open_it(void) { return !dlopen("odd.so", 1); }',
        "-Wl,--enable-new-dtags,-rpath,$ORIGIN/deep",
    )
    main = program(
        tmp_path / "main", "int open_it(void); int main(void) {return open_it();}", middle
    )
    told = explained(main)
    assert [one["path"] for one in told["opened"] if one["name"] == "odd.so"] == [str(odd)]
    assert told["open_ended"] == []
    assert run([str(image(main, open_ended="deny"))]).status == 0
