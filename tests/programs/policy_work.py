"""Real work under the policy that is learned of each program: nothing that it does may be refused.

test_policy_work.py does that of `SMALL`, tests/survey/policies.py all of it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.needs import tool

from .filtered_work import FILES, Filtered, words_of
from .filtered_work import SMALL as FILTERED
from .filtering import SYSTEM_PATH
from .harness import Outcome, empty, run, spidl
from .work import ENVIRONMENT

PYTHON = """
import _ctypes, bz2, csv, ctypes, decimal, hashlib, json, lzma, pwd, socket, sqlite3, ssl, zlib
print(json.dumps(hashlib.sha256(b"x").hexdigest()), decimal.Decimal(1) / 7, pwd.getpwuid(0)[0])
print(sqlite3.connect(":memory:").execute("select 6 * 7").fetchall(), socket.gethostbyname("127.1"))
print(ctypes.CDLL("libm.so.6").abs(-3), len(lzma.compress(b"x" * 999)), ssl.HAS_TLSv1_3)
print("\\u65e5\\u672c".encode("euc-jp"), "\\u00fc".encode("idna"))
"""
GDB = ("-nx", "-batch", "-ex", "break main", "-ex", "run", "-ex", "bt", "-ex", "info sharedlibrary",
       "-ex", "python print(gdb.selected_frame().name())", "--args", "./program")  # fmt: skip
MORE = (
    Filtered(
        "curl", "curl", words_of("curl", "-s file:///etc/hostname", "-V", "-s http://localhost:1/")
    ),
    Filtered(
        "python3", "python3", (("python3", "-c", PYTHON), ("python3", "-m", "json.tool", "j"))
    ),
    Filtered(
        "ssh-keygen",
        "openssh-client",
        (
            ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "key", "-C", "me"),
            ("ssh-keygen", "-y", "-P", "", "-f", "key"),
            ("ssh-keygen", "-l", "-f", "nothing"),
        ),
    ),
    Filtered("ssh", "openssh-client", words_of("ssh", "-V", "-G localhost", "-Q cipher")),
)
BIG = (
    Filtered("gdb", "gdb", (("gdb", *GDB),)),
    Filtered(
        "ffmpeg",
        "ffmpeg",
        words_of(
            "ffmpeg",
            "-v error -f lavfi -i testsrc=d=0.2:s=64x48 -f framemd5 -",
            "-v error -f lavfi -i sine=d=0.2 -c:a libmp3lame -f framemd5 -",
            "-v error -i file -f null -",
        ),
    ),
)
"""Many libraries or plug-ins: half a minute each."""
NAMES = ("tar", "sqlite3", "git", "curl", "ssh-keygen")
"""What the tests do; the survey does all."""
MORE_NAMES = ("openssl", "bash", "xz", "perl", "make", "getent", "iconv", "ps")
ALL = [work for work in FILTERED if work.name in (*NAMES, *MORE_NAMES)] + [*MORE, *BIG]
SMALL = [work for work in ALL if work.name in NAMES]


def _same_key(text: bytes) -> bytes:
    """Keys are random, addresses and times of their own each time."""
    return re.sub(rb"AAAAC3Nz\S+|0x[0-9a-f]+|process \d+", b"...", text)


def check(work: Filtered, folder: Path) -> None:
    """Learn a policy, do the work under it and without; AssertionError where anything differs."""
    program = Path(os.path.realpath(_path(work)))
    policy, image = folder / "policy.toml", folder / work.name
    opens = [f"--opens={item}" for item in OPENS.get(work.name, ())]
    learned = spidl(["policy", "learn", str(program), "-o", str(policy), *opens])
    assert (learned.stderr, learned.status) == (b"", 0)
    built = spidl(["build", str(program), "-o", str(image), "--with=authorise",
                   f"--set=authorise.file={policy}"])  # fmt: skip
    assert built.status == 0, built
    start = _starter(work, folder / "work")
    for words, before, after in zip(work.commands, start(program), start(image), strict=True):
        assert b"refused by the image's policy" not in after.stdout + after.stderr, words
        assert (_same_key(before.stdout), before.status) == (_same_key(after.stdout), after.status)
        assert before.status >= 0, f"{words}: {before}"


def _path(work: Filtered) -> str:
    """The distribution's own: another may stand before it in PATH."""
    tool(work.name, work.package)
    found = shutil.which(work.name, path=SYSTEM_PATH)
    assert found is not None, work.name
    return found


OPENS = {"gdb": ("libpython3.11.so.1.0=/usr/lib/python3.11/lib-dynload/**/*.so",)}


def _starter(work: Filtered, folder: Path) -> Callable[[Path], list[Outcome]]:
    env = {**ENVIRONMENT, "PATH": SYSTEM_PATH, "HOME": str(folder), "TERM": "dumb"}
    program = folder.parent / "program"
    run([tool("gcc", "gcc"), "-g", "-xc", "-o", str(program), "-"], stdin=b"int main(){return 0;}")

    def start(executable: Path) -> list[Outcome]:
        empty(folder)
        for name, content in {**FILES, "j": '{"a": [1, 2]}'}.items():
            (folder / name).write_text(content)
        (folder / "program").symlink_to(program)
        return [
            run(words, executable=executable, cwd=folder, env=env, stdin=work.stdin)
            for words in work.commands
        ]

    return start
