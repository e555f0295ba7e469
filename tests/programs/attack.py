"""What the tests of bad input and of safety share: another user, what an error looks like."""

from __future__ import annotations

import json
import os
import pwd
import re
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .harness import PLAIN_WAY, SOURCE, STEERING, Outcome, run
from .reachable import reachable

NOBODY = pwd.getpwnam("nobody")
DROP = """
import os, sys
user, group = int(sys.argv[1]), int(sys.argv[2])
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
os.execv(sys.argv[3], sys.argv[3:])
"""


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what steers a linker, and with Spidl on the path."""
    env = {k: v for k, v in os.environ.items() if not k.startswith((*STEERING, "SPIDL_"))}
    return {**env, "PYTHONPATH": str(SOURCE), **more}


def spidl_with(
    arguments: Sequence[str | Path],
    env: Mapping[str, str] | None = None,
    *,
    cwd: Path | None = None,
    limits: Mapping[int, tuple[int, int]] | None = None,
    timeout: float = 120,
) -> Outcome:
    """Spidl's command line with these variables on top of `environment`."""
    command = [sys.executable, "-m", "spidl", *map(str, arguments)]
    return run(command, env=environment(**(env or {})), cwd=cwd, limits=limits, timeout=timeout)


def as_nobody(
    arguments: Sequence[str | Path], env: Mapping[str, str] | None = None, *, home: Path
) -> Outcome:
    """The same as a user without privileges: nobody if this is root, else this user."""
    python, own = reachable()
    user = [str(NOBODY.pw_uid), str(NOBODY.pw_gid)]
    command = [sys.executable, "-c", DROP, *user, python, "-P", "-m", "spidl", *map(str, arguments)]
    variables = {**environment(HOME=str(home)), **own, **(env or {})}
    return run(command, env=variables, cwd=Path("/"))


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every entry below a folder with its inode, size and mode."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(folder))] = status.st_ino, status.st_size, status.st_mode
    return found


def one_error(
    result: Outcome, code: str = "", *, as_json: bool = False, draws: bool = False
) -> str:
    """Insist on exactly one error, in Spidl's form and with advice; gives its code.

    Nothing else may be printed, but by `spidl tree`, which ``draws`` what it found.
    """
    text = result.stderr.decode()
    heads = re.findall(r"^spidl: (?:error|refused)\[([a-z]+/[a-z0-9-]+)\]: \S.*$", text, re.M)
    assert len(heads) == 1, result
    assert result.status == 2, result
    assert text.startswith("spidl: "), result
    assert "Traceback" not in text, result
    assert "= help: " in text, result
    for line in text.splitlines()[1:]:
        assert line.startswith(("  --> ", "   = ")), result
    assert not heads[0].startswith("internal/"), result
    assert re.fullmatch(code or ".*", heads[0]), result
    if as_json:
        shown = json.loads(result.stdout)["error"]
        assert shown["code"] == heads[0], result
        assert shown["message"] in text, result
        assert shown["help"], result
    else:
        assert result.stdout == b"" or draws, result
    return str(heads[0])


def compile_to(output: Path, source: str, *flags: str | Path) -> Path:
    """Compile C text with gcc; what a file beside it is called is up to ``flags``."""
    output.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-O1", "-o", str(output), "-xc", "-", "-xnone", *map(str, flags)]
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def library(output: Path, source: str, *flags: str | Path) -> Path:
    """A shared library with its file name as soname."""
    soname = f"-Wl,-h,{output.name}"
    return compile_to(output, source, "-shared", "-fPIC", soname, "-Wl,-rpath,$ORIGIN",
                      "-Wl,--no-as-needed", *flags)  # fmt: skip


def program(output: Path, source: str, *flags: str | Path) -> Path:
    """A program that finds its libraries beside itself, or where ``flags`` set its rpath to."""
    origin = () if "rpath" in " ".join(map(str, flags)) else ("-Wl,-rpath,$ORIGIN",)
    return compile_to(output, source, *origin, "-Wl,--no-as-needed", *flags)


def open_to_all(folder: Path) -> None:
    """Let every user read what is below, and reach it."""
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(stat.S_IMODE(parent.stat().st_mode) | 0o755)


def plainly(result: Outcome, stdout: bytes) -> bool:
    """The right output, with Spidl's reason for the plain way and nothing else."""
    assert (result.stdout, result.status) == (stdout, 0), result
    return PLAIN_WAY in result.stderr
