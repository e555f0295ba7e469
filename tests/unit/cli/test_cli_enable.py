"""`spidl enable`, `disable` and `status`, with programs that are really started."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cli_answers import Command, compile_c

from spidl.launch import LAUNCHER

SOURCE = Path(__file__).parents[3] / "src"
GREETER = """
#include <stdio.h>
int main(int argc, char **argv) {
    printf("%s %s %s\\n", GREETING, argv[0], argc > 1 ? argv[1] : "");
    return 7;
}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Path:
    """A folder with bin/, cache/ and the program src/greeter, with bin first in PATH."""
    source = tmp_path / "src"
    source.mkdir()
    compile_c(source, "greeter", GREETER, '-DGREETING="hello"')
    monkeypatch.setenv("SPIDL_BIN", str(tmp_path / "bin"))
    monkeypatch.setenv("SPIDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{source}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(SOURCE))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(path: Path | str, *words: str, **variables: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [path, *words], env={**os.environ, **variables}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_an_enabled_program_starts_through_its_image(command: Command, place: Path) -> None:
    answer = command("enable", "greeter")
    assert (answer.status, answer.err) == (0, "")
    assert os.readlink(place / "bin" / "greeter") == LAUNCHER
    assert os.stat(place / "bin" / ".spidl").st_mode & 0o777 == 0o700
    assert os.stat(place / "bin" / ".spidl" / "greeter").st_mode & 0o777 == 0o600
    said = start("greeter", "x", SPIDL_VERBOSE="1")
    assert said == (7, "hello greeter x\n", "")
    [entry] = (place / "cache" / "images").iterdir()
    (entry / "greeter").unlink()
    plain = start("greeter", "x", SPIDL_VERBOSE="1", SPIDL_RELINK="never")
    assert plain[:2] == said[:2]
    assert "plain way" in plain[2]


def test_a_path_is_enabled_like_a_name(command: Command, place: Path) -> None:
    assert command("enable", "./src/greeter").status == 0
    assert start(place / "bin" / "greeter")[0] == 7


def test_enabling_twice_updates(command: Command, place: Path) -> None:
    first = command("enable", "--json", "greeter").json["programs"][0]
    again = command("enable", "--json", "--layout=copy", "greeter").json["programs"][0]
    assert (first["state"], again["state"]) == ("enabled", "updated")
    assert b"O--layout=copy\0" in (place / "bin" / ".spidl" / "greeter").read_bytes()
    assert command("status", "--json").json["programs"][0]["options"] == ["--layout=copy"]


def test_what_cannot_be_linked_is_not_enabled(command: Command, place: Path) -> None:
    script = place / "src" / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    privileged = place / "src" / "privileged"
    shutil.copy(place / "src" / "greeter", privileged)
    privileged.chmod(0o4755)
    answer = command("enable", "--json", "script", "privileged", "no-such-program", "greeter")
    assert answer.status == 2
    states = {found["name"]: found["state"] for found in answer.json["programs"]}
    assert states == {"script": "not-enabled", "privileged": "not-enabled",
                      "no-such-program": "not-enabled", "greeter": "enabled"}  # fmt: skip
    assert "error[parse/not-elf]" in answer.err
    assert "refused[enable/refused]" in answer.err
    assert "refused[exec/privileged]" in answer.err
    assert "error[collect/no-program]" in answer.err
    assert sorted(os.listdir(place / "bin")) == [".spidl", "greeter"]
    assert os.listdir(place / "bin" / ".spidl") == ["greeter"]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_in_the_way_stays(command: Command, place: Path, kind: str) -> None:
    there = place / "bin" / "greeter"
    there.parent.mkdir()
    if kind == "file":
        there.write_text("mine")
    elif kind == "folder":
        there.mkdir()
    else:
        there.symlink_to("/usr/bin/true")
    before = os.lstat(there)
    command("enable", place / "src" / "greeter").failed("enable/in-the-way")
    assert os.path.samestat(before, os.lstat(there))
    assert not (place / "bin" / ".spidl" / "greeter").exists()


def test_spidl_itself_is_not_given_to_another_program(command: Command, place: Path) -> None:
    shutil.copy(place / "src" / "greeter", place / "src" / "spidl")
    command("enable", place / "src" / "spidl").failed("enable/in-the-way")


def test_a_link_of_a_spidl_that_is_gone_is_replaced(command: Command, place: Path) -> None:
    command("enable", "greeter")
    (place / "bin" / "greeter").unlink()
    (place / "bin" / "greeter").symlink_to("/nowhere/spidl")
    state = command("status", "--json").json["programs"][0]
    assert (state["state"], "enable it again" in state["why"]) == ("no-link", True)
    assert command("enable", place / "src" / "greeter").status == 0
    assert start("greeter")[0] == 7


def test_modules_and_settings_are_found_from_everywhere(command: Command, place: Path) -> None:
    (place / "mine.py").write_text(
        "from spidl.api import Module\nclass Mine(Module):\n    def register(self, dso, p): ...\n"
    )
    (place / "my.toml").write_text('pipeline = ["preload", "sysv", "gnu", "musl"]\n')
    answer = command("enable", "greeter", "--with=./mine.py", "--config", "my.toml")
    assert (answer.status, answer.err) == (0, "")
    words = (place / "bin" / ".spidl" / "greeter").read_bytes().split(b"\0")
    assert f"O--with={place}/mine.py".encode() in words
    assert f"O--config={place}/my.toml".encode() in words
    done = subprocess.run(["greeter"], cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (7, "")


def test_an_unprivate_folder_is_refused(command: Command, place: Path) -> None:
    (place / "bin").mkdir()
    (place / "bin").chmod(0o777)
    command("enable", "greeter").failed("enable/not-private")
    assert os.listdir(place / "bin") == []


def test_a_folder_that_cannot_be_is_an_error(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIDL_BIN", str(place / "src" / "greeter" / "bin"))
    command("enable", "greeter").failed("enable/cannot-write")
    for name in ("SPIDL_BIN", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    command("enable", "greeter").failed("enable/no-home")
    monkeypatch.setenv("HOME", str(place))
    assert command("status", "--json").json["folder"] == f"{place}/.local/share/spidl/bin"


def test_the_line_for_the_profile_works_in_a_shell(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = place / 'a $HOME "b'
    odd.mkdir()
    monkeypatch.setenv("HOME", str(odd))
    monkeypatch.setenv("SPIDL_BIN", str(odd / "bin`x`"))
    monkeypatch.setenv("SHELL", "/bin/sh")
    answer = command("enable", "--json", "greeter").json
    assert answer["in_path"] is False
    shell = start("sh", "-c", f"{answer['path_line']}\ncommand -v greeter")
    assert shell == (0, f"{odd}/bin`x`/greeter\n", "")


def test_disabling_leaves_nothing(command: Command, place: Path) -> None:
    command("enable", "greeter")
    assert command("disable", "greeter").out == "greeter: disabled\n"
    assert os.listdir(place / "bin") == [".spidl"]
    assert os.listdir(place / "bin" / ".spidl") == []
    again = command("disable", "greeter")
    assert (again.status, again.out) == (0, "greeter: was not enabled\n")
    assert start("greeter")[0] == 7


def test_disabling_a_name_that_nobody_knows_is_an_error(command: Command, place: Path) -> None:
    command("enable", "greeter")
    answer = command("disable", "greter", "greeter").failed("enable/not-enabled")
    assert "enabled are: greeter" in answer.err
    assert not os.path.lexists(place / "bin" / "greeter")
    command("disable").failed("cli/usage")
    command("disable", "--all", "greeter").failed("cli/usage")


def test_disabling_all_spares_what_is_not_ours(command: Command, place: Path) -> None:
    command("enable", "greeter", "true")
    (place / "bin" / "true").unlink()
    (place / "bin" / "true").write_text("mine")
    (place / "bin" / "other").write_text("mine as well")
    assert command("disable", "--all").status == 0
    assert sorted(os.listdir(place / "bin")) == [".spidl", "other", "true"]
    assert command("status", "--json").json["programs"] == []
    assert command("disable", "--all").status == 0


def test_status_tells_what_comes_of_a_start(command: Command, place: Path) -> None:
    command("enable", "greeter")

    def state() -> tuple[str, str | None]:
        answer = command("status", "--json")
        assert (answer.status, answer.err) == (0, "")
        assert answer.json["in_path"]
        [found] = answer.json["programs"]
        return found["state"], found["why"]

    assert state() == ("valid", None)
    [entry] = (place / "cache" / "images").iterdir()
    compile_c(place / "src", "greeter", GREETER, '-DGREETING="goodbye"')
    assert state()[0] == "stale"
    assert state()[1] == f"{place}/src/greeter has changed"
    assert start("greeter", "x")[1] == "goodbye greeter x\n"
    assert state() == ("valid", None)
    shutil.rmtree(entry)
    assert state()[0] == "missing"
    (place / "src" / "greeter").unlink()
    assert state()[0] == "no-program"
    (place / "bin" / ".spidl" / "greeter").chmod(0o666)
    assert state()[0] == "not-believed"


def test_status_tells_problems(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def problems() -> list[str]:
        return [problem["code"] for problem in command("status", "--json").json["problems"]]

    assert problems() == []
    command("enable", "greeter")
    assert problems() == []
    (place / "cache").chmod(0o777)
    (place / "bin" / ".spidl").chmod(0o770)
    assert problems() == ["enable/not-private", "cache/not-private"]
    (place / "cache").chmod(0o700)
    (place / "bin" / ".spidl").chmod(0o700)
    monkeypatch.setenv("PATH", f"{place}/src:{place}/bin:/usr/bin:/bin")
    assert problems() == ["enable/not-in-path"]
    assert "warning[enable/not-in-path]" in command("status").out
