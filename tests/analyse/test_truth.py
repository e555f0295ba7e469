"""No false negatives: what real programs ask the kernel is what the analysis allows them.

Each program does real work under strace; every call of every program that it starts must be in
the union of the summaries of its link.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.analyse.combining import allowed, closure, is_elf, missing, summary, traced
from tests.needs import tool

LIBC = "/lib/x86_64-linux-gnu/libc.so.6"
PYTHON = """
import asyncio, ctypes, hashlib, json, mmap, multiprocessing, os, select, shutil, signal, socket
import sqlite3, ssl, subprocess, tempfile, threading, time, zlib
thread = threading.Thread(target=lambda: hashlib.sha256(b"x" * 5000000).digest())
thread.start(); thread.join()
subprocess.run(["true"])
socket.getaddrinfo("localhost", 80)
with tempfile.TemporaryDirectory() as folder:
    open(folder + "/a", "w").write("x"); shutil.copy(folder + "/a", folder + "/b")
    os.symlink("a", folder + "/c"); os.rename(folder + "/b", folder + "/d"); list(os.walk(folder))
    sqlite3.connect(folder + "/db").execute("create table t(a)")
signal.setitimer(signal.ITIMER_REAL, 0.01); signal.signal(signal.SIGALRM, lambda *a: None)
time.sleep(0.02)
async def main():
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    await asyncio.open_connection(*server.sockets[0].getsockname())
asyncio.run(main())
with multiprocessing.Pool(2) as pool:
    print(pool.map(abs, [1, -2]))
"""
PERL = """
use Socket; use POSIX; use IO::Select; use File::Temp qw(tempdir);
my $d = tempdir(CLEANUP => 1); open(F, ">", "$d/a") or die; flock(F, 2); print F "x" x 100000;
close F; rename "$d/a", "$d/b"; chmod 0600, "$d/b"; utime 1, 1, "$d/b"; my @s = stat "$d/b";
socketpair(A, B, AF_UNIX, SOCK_STREAM, PF_UNSPEC); my $p = fork; if (!$p) { print B "x"; exit }
waitpid $p, 0; getpwnam "root"; alarm 5; select undef, undef, undef, 0.01; `true`;
"""
WORK = {
    "true": ["true"],
    "ls": ["ls", "-laR", "--color", "/usr/share/doc/git"],
    "bash": ["bash", "-c", 'f() { sleep 0.01 & wait; }; f; echo $(ls | wc -l) <<<x; ulimit -n; cd /'
             "; trap : USR1; kill -USR1 $$; read -t 0.01 x; umask; [ -f x ]; exec 3</dev/null"],
    "git": ["git", "-C", "@repository@", "log", "-3", "--stat"],
    "sqlite3": ["sqlite3", "@folder@/db", "create table t(a); insert into t values (1);"
                "pragma journal_mode=wal; insert into t values (2); select * from t; vacuum;"],
    "perl": ["perl", "-e", PERL],
    "python3": ["/usr/bin/python3", "-c", PYTHON],
    "ffmpeg": ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "testsrc=d=0.2", "-threads", "2",
               "@folder@/out.mp4"],
    "gdb": ["gdb", "-nx", "-batch", "-ex", "break main", "-ex", "run", "-ex", "bt", "-ex", "kill",
            "/usr/bin/true"],
    "curl": ["curl", "-m", "2", "http://127.0.0.1:1/", "file:///etc/hostname"],
    "tar": ["tar", "-czf", "@folder@/x.tar.gz", "/usr/share/doc/git"],
    "gzip": ["gzip", "-kc", "/etc/services"],
    "xz": ["xz", "-T2", "-kc", "/etc/services"],
    "openssl": ["openssl", "speed", "-seconds", "1", "-bytes", "64", "sha256"],
    "gcc": ["gcc", "-pipe", "-O2", "-c", "-o", "@folder@/x.o", "@source@"],
    "ld": ["gcc", "-o", "@folder@/x", "@source@"],
    "make": ["make", "-j2", "-f", "@makefile@"],
    "find": ["find", "/usr/share/doc/git", "-type", "f", "-exec", "wc", "-c", "{}", "+"],
    "sort": ["sort", "--parallel=2", "-S", "64K", "-T", "@folder@", "/etc/services"],
    "sed": ["sed", "-n", "s/a/b/p", "/etc/services"],
    "grep": ["grep", "-r", "root", "/etc/passwd", "/etc/group"],
    "awk": ["awk", "{print $1 | \"sort\"}", "/etc/services"],
    "tail": ["timeout", "0.3", "tail", "-f", "/etc/services"],
    "cp": ["cp", "-a", "/usr/share/doc/git", "@folder@/copy"],
    "rm": ["rm", "-rf", "@folder@/nothing"],
    "getent": ["getent", "hosts", "localhost"],
    "iconv": ["iconv", "-f", "utf-8", "-t", "iso-8859-15", "/etc/services"],
    "id": ["id"],
    "date": ["date"],
    "dd": ["dd", "if=/dev/zero", "of=@folder@/z", "bs=4k", "count=3", "conv=fsync"],
    "stat": ["stat", "/etc/passwd"],
    "env": ["env", "-i", "nice", "-n", "1", "setsid", "-w", "true"],
    "su": ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "id"],
    "ps": ["ps", "aux"],
    "df": ["df"],
    "dash": ["dash", "-c", "x=$(echo 1); echo $x | cat; kill -0 $$; wait"],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WORK))
def test_what_a_program_asks_for_is_allowed(name: str, tmp_path: Path) -> None:
    tool("strace", "strace")
    source = tmp_path / "x.c"
    source.write_text('#include <stdio.h>\nint main(void) { return puts("x") < 0; }\n')
    makefile = tmp_path / "Makefile"
    makefile.write_text("all: a b\na b:\n\t@sleep 0.01; echo $@\n")
    repository = Path(__file__).parents[2]
    places = {"folder": tmp_path, "source": source, "makefile": makefile, "repository": repository}
    command = list(WORK[name])
    for place, path in places.items():
        command = [word.replace(f"@{place}@", str(path)) for word in command]
    command[0] = tool(command[0], command[0])
    trace = traced(command, tmp_path / "trace", cwd=tmp_path)
    assert any(is_elf(program) for program in trace.calls)
    assert len(trace.calls[os.path.realpath(command[0])]) > 4
    assert missing(trace) == {}


def test_the_comparison_is_about_something() -> None:
    """Programs are allowed some hundred calls, not all, and all is told about them."""
    for name in ("true", "ls", "git"):
        program = os.path.realpath(tool(name, name))
        assert summary(program).build_id
        calls, unknown = allowed(program)
        assert not unknown
        assert 25 < len(calls) < 130
        assert any(path.endswith("libc.so.6") for path in closure(program))
    assert summary(os.path.realpath(LIBC)).unknown == ()
