"""Ways into the launcher that it was not made for: forged variables, odd paths, odd folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spidl.cli.enabled import Enabled, Folder
from tests.needs import tool

from .attack import NOBODY, open_to_all, program
from .harness import Outcome, run
from .starts import Place, enable, in_namespace, root_only, told, value

POLICY = """
from spidl.api import Module
class Guard(Module):
    name = "guard"
    policy = True
    def register(self, dso, pipeline): pass
"""
SAYS = '#include <stdio.h>\nint main(void) { puts("another program"); return 0; }'
AS_IF_SET_USER_ID = """#include <unistd.h>
int main(int argc, char **argv, char **envp) {
  return argc < 2 ? 1 : (execve(argv[1], argv + 1, envp), 2);
}"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_forged_return_of_an_image(place: Place, tmp_path: Path) -> None:
    """SPIDL_STALE means something to the launcher under the one name that only images use."""
    other = program(tmp_path / "other", SAYS)
    forged = {"SPIDL_STALE": f"-/nowhere\n{other}"}
    name = place.enable(tmp_path / "bin")
    assert place.start() == told(1, "image")
    assert place.never(forged) == told(1, "image")
    assert run([str(name)], env=place.environment(**forged)) == told(1, "image")
    value(place.lib, 2)  # the image itself asks, behind the forged one
    assert run([str(name)], env=place.environment(**forged)) == told(2, "image")


@root_only
def test_a_privileged_start_takes_nothing_from_the_environment(tmp_path: Path) -> None:
    """A set-user-ID program of root's executes an enabled name; under a policy it ends."""
    place = Place(tmp_path, rpath=str(tmp_path / "place"))  # there, $ORIGIN counts for nothing
    name = place.enable(tmp_path / "bin")
    module = tmp_path / "guard.py"
    module.write_text(POLICY)
    Folder(str(tmp_path / "bin")).write(
        Enabled("guarded", str(place.main), str(place.cache), None, (f"--with={module}",))
    )
    assert place.start() == told(1, "image")
    door = program(tmp_path / "door", AS_IF_SET_USER_ID)
    open_to_all(tmp_path)
    open_to_all(place.lib)
    door.chmod(0o4755)
    other = program(tmp_path / "other", SAYS)
    env = place.environment(SPIDL_STALE=f"-/nowhere\n{other}")
    for target, right in ((name, (0, b"1 plain\n")), (tmp_path / "bin/guarded", (126, b""))):
        done = subprocess.run([door, target], env=env, user=NOBODY.pw_uid, group=NOBODY.pw_gid,
                              extra_groups=[], capture_output=True, check=False)  # fmt: skip
        assert (done.returncode, done.stdout) == right, done


@pytest.mark.parametrize("way", ["loop of links", "name too long"])
def test_a_folder_that_cannot_be_looked_at(place: Place, tmp_path: Path, way: str) -> None:
    """It is absent to all who ask, so the image is made once and then used."""
    (tmp_path / "loop").symlink_to("loop")
    folder = tmp_path / ("loop" if way == "loop of links" else "x" * 300)
    for _ in range(2):
        assert place.start({"LD_LIBRARY_PATH": str(folder)}) == told(1, "image")
    assert len(place.images()) == 1


def test_no_settings_of_the_working_folder(place: Place, tmp_path: Path) -> None:
    """Neither without HOME nor with a relative XDG_CONFIG_HOME."""
    evil = tmp_path / "evil/.config/spidl"
    evil.mkdir(parents=True)
    (evil / "spidl.toml").write_text('pipeline = ["preload", "sysv", "gnu", "musl", "evil.py"]')
    (evil / "evil.py").write_text("raise SystemExit('evil')")
    env = place.environment(XDG_CONFIG_HOME=".config")
    for variables in (env, {k: v for k, v in env.items() if k not in ("HOME", "XDG_CONFIG_HOME")}):
        line = place.words("run", str(place.main))
        assert run(line, cwd=tmp_path / "evil", env=variables) == told(1, "image")


@root_only
def test_settings_of_another_user(place: Place, tmp_path: Path) -> None:
    settings = tmp_path / "home/.config/spidl/spidl.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('pipeline = ["preload", "sysv", "gnu", "musl"]')
    assert place.start() == told(1, "image")
    os.chown(settings, NOBODY.pw_uid, NOBODY.pw_gid)
    result = place.start()
    assert result.status == 2
    assert result.stderr.startswith(b"spidl: error[config/not-private]"), result


@pytest.mark.parametrize("variable", ["PYTHONPATH=:/x", "PYTHONINSPECT=1", "PYTHONHOME=/x"])
def test_variables_of_other_pythons(place: Place, tmp_path: Path, variable: str) -> None:
    """The Python that links is Spidl's own, whatever folder this is."""
    for name in ("json", "spidl", "argparse"):
        (tmp_path / "evil" / name).mkdir(parents=True)
        (tmp_path / "evil" / name / "__init__.py").write_text("print('evil')\nraise SystemExit(0)")
    name, _, text = variable.partition("=")
    own = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2] / 'src')!r}); "
    python = [sys.executable, "-E", "-P", "-c", own + "from spidl.cli.main import entry; entry()"]
    place.python = python
    result = run(place.words("run", str(place.main)), cwd=tmp_path / "evil",
                 env=place.environment(**{name: text}))  # fmt: skip
    assert result == told(1, "image")


def test_dots_on_the_way_to_a_program(place: Place, tmp_path: Path) -> None:
    """Behind a link, only the kernel knows what `..` is."""
    (tmp_path / "far/real").mkdir(parents=True)
    (tmp_path / "near").mkdir()
    (tmp_path / "near/link").symlink_to("../far/real")
    (tmp_path / "far/tool").symlink_to(place.main)
    program(tmp_path / "near/tool", SAYS)
    for _ in range(2):
        line = place.words("run", "near/link/../tool")
        assert run(line, cwd=tmp_path, env=place.environment()) == told(1, "image")
    assert len(place.images()) == 1


def test_a_working_folder_without_a_path(place: Place, tmp_path: Path) -> None:
    deep = tmp_path
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=here)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    script = "import os, sys; os.fchdir(int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])"
    line = place.words("run", "./program")
    os.symlink(place.main, "program", dir_fd=here)
    done = subprocess.run([sys.executable, "-c", script, str(here), *line],
                          pass_fds=[here], env=place.environment(), capture_output=True,
                          check=False)  # fmt: skip
    os.close(here)
    subprocess.run(["rm", "-rf", deep / ("d" * 250)], check=True)
    assert (done.stdout, done.returncode) == (b"1 plain\n", 0), done


def test_a_link_to_an_enabled_name(place: Place, tmp_path: Path) -> None:
    name = place.enable(tmp_path / "bin")
    (tmp_path / "one").symlink_to(name)
    (tmp_path / "two").symlink_to("one")
    assert place.start() == told(1, "image")
    assert run([str(tmp_path / "two")], env=place.environment()) == told(1, "image")


@pytest.mark.parametrize("hard", [False, True])
def test_a_release_behind_a_link(tmp_path: Path, hard: bool) -> None:
    """$ORIGIN leads through `current`, and both releases have the very same program."""
    place = Place(tmp_path, rpath="$ORIGIN/../lib")
    for number in (1, 2):
        (tmp_path / f"release/{number}/bin").mkdir(parents=True)
        value(tmp_path / f"release/{number}/lib", number)
        target = tmp_path / f"release/{number}/bin/program"
        (os.link if hard else lambda a, b: subprocess.run(["cp", a, b], check=True))(
            place.main, target
        )
    current = tmp_path / "release/current"
    current.symlink_to("1")
    place.main = current / "bin/program"
    assert place.start() == told(1, "image")
    assert place.never() == told(1, "image")
    current.unlink()
    current.symlink_to("2")
    assert place.start() == told(2, "image")


@root_only
def test_a_library_on_a_file_system_image(tmp_path: Path) -> None:
    """A loop device's file system may be exchanged as a whole: nothing of it is kept."""
    tool("mke2fs", "e2fsprogs")
    place = Place(tmp_path, rpath=str(tmp_path / "mounted"))
    (tmp_path / "mounted").mkdir()
    subprocess.run(["truncate", "-s", "2M", tmp_path / "image"], check=True)
    subprocess.run(["mke2fs", "-q", "-d", place.lib, tmp_path / "image"], check=True)
    script = """
mount -o loop "$1/image" "$1/mounted"
spidl run "$2"
spidl run "$2"
"""
    env = place.environment(SPIDL_VERBOSE="1")
    result = in_namespace(script, tmp_path, place.main, env=env)
    assert result.stdout == b"1 plain\n" * 2, result
    assert result.stderr.count(b"refused[cache/no-identity]") == 2, result


def test_a_stopped_linker_stops_nobody_else(place: Place, tmp_path: Path) -> None:
    """Its lock is taken: others start plainly, also where a spidl.toml is."""
    name = place.enable(tmp_path / "bin")
    assert place.start() == told(1, "image")
    key = place.images()[0].parent.name
    hold = (
        "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR); "
        "fcntl.lockf(f, fcntl.LOCK_EX, 1, int(sys.argv[2][:15], 16)); print('held', flush=True); "
        "sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", hold, place.cache / "lock", key],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    value(place.lib, 2)
    assert place.start() == told(2, "plain")
    assert run([str(name)], env=place.environment()) == told(2, "plain")
    holder.communicate(b"")
    assert place.start() == told(2, "image")


def test_a_link_that_could_not_be_kept_is_not_tried_at_every_start(
    place: Place, tmp_path: Path
) -> None:
    """An enabled program waits some minutes; who says `spidl run` does not."""
    name = enable(place.main, place.cache, tmp_path / "bin", "program")
    assert place.start() == told(1, "image")
    place.images()[0].unlink()
    os.utime(place.cache / "lock")
    result = run([str(name)], env=place.environment(SPIDL_VERBOSE="1"))
    assert result.stdout == b"1 plain\n"
    assert b"some minutes ago" in result.stderr
    assert place.start() == Outcome(b"1 image\n", b"", 0)
