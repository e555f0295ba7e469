"""Real work: what people do with programs, as data that the tests and the survey both run.

Each piece of work prints what it found, without times, addresses and process ids; the programs it
names in ``tools`` run as images too when the work is compared.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .harness import Images, Layout, Outcome, compare

ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PERL_HASH_SEED": "0",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A U Thor",
    "GIT_AUTHOR_EMAIL": "author@example.com",
    "GIT_AUTHOR_DATE": "2024-01-02T03:04:05Z",
    "GIT_COMMITTER_NAME": "C O Mitter",
    "GIT_COMMITTER_EMAIL": "committer@example.com",
    "GIT_COMMITTER_DATE": "2024-01-02T03:04:06Z",
}


@dataclass(frozen=True)
class Work:
    """One command, what it needs, and what it must print (a part of stdout)."""

    name: str
    argv: tuple[str, ...]
    expect: str
    stdin: bytes = b""
    tools: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Files or commands besides argv[0] and the tools without which the work cannot be done."""
    everywhere: bool = True
    """Whether a minimal root of another distribution does it too."""
    status: int = 0
    timeout: float = 120
    normalise: Callable[[bytes], bytes] | None = None

    def missing(self) -> list[str]:
        """What this machine lacks for it."""
        wanted = (self.argv[0], *self.tools.values(), *self.needs)
        return [name for name in wanted if shutil.which(name) is None]

    def compare(self, folder: Path, layout: Layout, images: Images) -> Outcome:
        """Do it under the system's linker and as images; raise AssertionError if they differ."""

        def prepare(cwd: Path) -> None:
            for name, content in self.files.items():
                (cwd / name).write_text(content)

        path = f"{folder / 'tools'}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        outcome = compare(
            self.argv,
            cwd=folder,
            prepare=prepare,
            stdin=self.stdin,
            env={**ENVIRONMENT, "PATH": path, "HOME": str(folder)},
            layout=layout,
            images=images,
            program=Path(os.path.realpath(self.argv[0])),
            outputs=self.outputs,
            tools={name: Path(os.path.realpath(path)) for name, path in self.tools.items()},
            timeout=self.timeout,
            status=self.status,
            normalise=self.normalise,
        )
        assert self.expect in outcome.stdout.decode(errors="replace"), f"{self.name}: {outcome}"
        return outcome


GIT = r"""
set -e
git init -q -b main origin && cd origin
for i in 1 2 3; do echo "line $i" >> file; git add file; git commit -q -m "commit $i"; done
git checkout -q -b side HEAD~1 && echo other > other && git add . && git commit -q -m side
git checkout -q main && git merge -q --no-edit side && cd ..
git clone -q origin copy && cd copy
git log --format='%H %an %s' --graph --all && git diff --stat HEAD~1 && git status --short --branch
git fsck --strict && git gc -q && git cat-file -p 'HEAD^{tree}' && git blame -s file
git archive HEAD | tar t
git grep -n line && echo untracked > new && git stash -q -u && git stash list --format=%gd
"""

BASH = r"""
trap 'echo "exit trap $?"' EXIT
trap 'echo caught usr1' USR1
echo ~root ~
printf '%s\n' c a b | sort | tr a-z A-Z | paste -sd,
cat <<END | while read -r word rest; do echo "[$word] [$rest]"; done
here document $((6 * 7))
second 'line'
END
cat <<< "here string"
kill -USR1 $$
declare -A map=([one]=1 [two]=2); echo "${map[two]} ${#map[@]}"
diff <(seq 3) <(seq 4) || echo "differ: $?"
(exit 3); echo "subshell $?"
sleep 0.01 & wait $!; echo "waited $?"
coproc cat; echo through >&"${COPROC[1]}"; read -r back <&"${COPROC[0]}"; echo "$back"
shopt -s extglob
case abc in +([a-c])) echo matched;; esac
[[ "spidl-42" =~ ([0-9]+) ]] && echo "${BASH_REMATCH[1]}"
ulimit -s | grep -q . && echo "$(printf 'x%.0s' {1..2000} | wc -c)"
exec 5> out; echo to a file >&5; exec 5>&-; cat out
{ sh -c 'kill -SEGV $$'; } 2> /dev/null; echo "killed $?"
exit 4
"""

PERL = r"""
use strict; use warnings;
use POSIX qw(floor strftime setlocale LC_ALL :sys_wait_h); use List::Util qw(sum first shuffle);
use Data::Dumper; use Digest::MD5 qw(md5_hex); use Socket; use Time::HiRes qw(usleep);
use Storable qw(freeze thaw); use Encode qw(decode encode); use Fcntl; use File::Temp;
$Data::Dumper::Sortkeys = 1;
print floor(3.7), " ", strftime("%Y-%m-%d", gmtime(86400 * 365)), " ", sum(1 .. 10), "\n";
print Dumper({ list => [1, 2], name => "x" });
my @root = getpwnam("root"); print "$root[0] $root[2] $root[7]\n";
print md5_hex("spidl"), " ", thaw(freeze([42]))->[0], " ", length(encode("UTF-16", "ab")), "\n";
print inet_ntoa(inet_aton("127.0.0.1")), " ", (gethostbyname("localhost") ? 1 : 0), "\n";
my $pid = fork(); if (!$pid) { exit 7 } waitpid($pid, 0); print "child ", $? >> 8, "\n";
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; usleep(5_000_000); }; print "got $@";
print join(",", map { sprintf "%.3f", sin } 1 .. 3), " ", `echo from a shell`;
"""

PYTHON = r"""
import ctypes, ctypes.util, decimal, hashlib, json, lzma, multiprocessing, os, pwd, re, socket, \
    sqlite3, ssl, struct, subprocess, sys, tempfile, threading, time, zlib
print(ssl.create_default_context().verify_mode, hashlib.sha256(b"spidl").hexdigest())
db = sqlite3.connect(":memory:")
db.execute("create table t(a, b)"); db.executemany("insert into t values(?, ?)", enumerate("abc"))
print(db.execute("select sum(a), group_concat(b) from t").fetchall())
libc = ctypes.CDLL(None); libc.strlen.restype = ctypes.c_size_t
print(libc.strlen(b"four"), ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")._name)
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
array = (ctypes.c_int * 5)(5, 1, 4, 2, 3)
libc.qsort(array, 5, 4, compare(lambda a, b: a[0] - b[0])); print(list(array))
print(subprocess.run(["sh", "-c", "echo out; exit 3"], capture_output=True))
print(subprocess.check_output([sys.executable, "-c", "print(6 * 7)"]))
print(pwd.getpwuid(0).pw_dir, zlib.crc32(b"x"), lzma.decompress(lzma.compress(b"y" * 1000))[:3])
results = []
threads = [threading.Thread(target=lambda n=n: results.append(sum(range(n)))) for n in range(20)]
[t.start() for t in threads]; [t.join() for t in threads]; print(sorted(results)[-1])
def square(x): return x * x
with multiprocessing.get_context("fork").Pool(2) as pool: print(pool.map(square, range(5)))
a, b = socket.socketpair(); a.sendall(b"ping"); print(b.recv(9), decimal.Decimal(1) / 7)
print(sys.executable, sys.prefix, sys.argv)
def dive(n): return n and dive(n - 1) + 1
sys.setrecursionlimit(9000); print(dive(8000))
try: os.stat("/nonexistent")
except OSError as error: print(error)
print(re.sub(r"\d+", "#", "a1b22"), struct.pack("<d", 1.5), json.dumps({"k": [1, None]}))
"""

SPAWN = r"""
import multiprocessing
def square(x): return x * x
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool: print(pool.map(square, range(9)))
"""

NUMPY = r"""
import numpy as np, numpy.linalg
a = np.arange(12.0).reshape(3, 4)
print(np.round(np.linalg.svd(a)[1], 6), (a @ a.T).tolist(), np.fft.fft([1, 0, 0, 0]).tolist())
print(np.random.default_rng(1).integers(0, 100, 5), np.linalg.det(np.eye(300) * 1.0))
print(np.sort(np.random.default_rng(2).random(100000))[:1])
"""

PROGRAM_C = r"""
#include <stdio.h>
#include <math.h>
struct point { double x, y; };
static double length(struct point p) { return sqrt(p.x * p.x + p.y * p.y); }
int main(int argc, char **argv) {
  struct point p = {3, 4 * argc};
  printf("%.1f %s\n", length(p), argv[argc - 1] ? "ran" : "");
  return 0;
}
"""

PROGRAM_CC = r"""
#include <algorithm>
#include <iostream>
#include <stdexcept>
#include <vector>
int main() {
  std::vector<int> v{3, 1, 2};
  std::sort(v.begin(), v.end());
  try { v.at(9); } catch (const std::out_of_range &) { std::cout << "caught " << v[0] << '\n'; }
}
"""

SQL = b"""
create table t(id integer primary key, name text, x real);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000)
insert into t(name, x) select 'name' || i, i / 3.0 from n;
create index by_name on t(name);
.mode csv
select count(*), round(sum(x), 3), max(name) from t;
select name, x from t where name glob 'name19?' order by x desc limit 3;
explain query plan select * from t where name = 'name5';
.save saved.db
select upper(hex(x'0abc')) || json_extract('{"a": [1, 2]}', '$.a[1]');
select no_such_column from t;
"""

GDB = (
    "break length",
    "run",
    "backtrace",
    "info locals",
    "print p.y + 1",
    "finish",
    "info sharedlibrary libm",
    "python print(gdb.lookup_symbol('main')[0].name)",
    "continue",
)


def without_addresses(text: bytes) -> bytes:
    """gdb names process ids, and addresses where a library happens to lie."""
    text = re.sub(rb"process \d+", b"process N", text)
    return re.sub(rb"0x[0-9a-f]{6,}", b"ADDRESS", text)


def _gcc_tools() -> dict[str, str]:
    """The programs that the system's gcc starts, by the names it starts them under."""
    tools = {"as": "/usr/bin/as", "ld": "/usr/bin/ld"}
    for name in ("cc1", "cc1plus", "collect2"):
        places = sorted(Path("/usr/lib/gcc").glob(f"*/*/{name}"))
        places += sorted(Path("/usr/libexec/gcc").glob(f"*/*/{name}"))
        if places:
            tools[name] = str(places[-1])
    return tools


GCC = ("/usr/bin/gcc", "-B", "tools/", "-O2", "-g", "program.c", "-o", "program", "-lm")
COMPILES = {"program.c": PROGRAM_C, "program.cc": PROGRAM_CC}
FFMPEG = (
    "ffmpeg -v error -nostdin -f lavfi -i testsrc=duration=1:size=128x96:rate=10"
    " -f lavfi -i sine=duration=1 -c:v libx264 -threads 1 -c:a aac -flags +bitexact"
    " -fflags +bitexact out.mkv && ffmpeg -v error -nostdin -i out.mkv -threads 2 -f framemd5 -"
)

ALL: tuple[Work, ...] = (
    Work(
        "git", ("/bin/bash", "-c", GIT), "commit 3", tools={"git": "/usr/bin/git"}, needs=("tar",)
    ),
    Work("bash", ("/bin/bash", "-c", BASH), "/root ", status=4),
    Work("dash", ("/bin/dash", "-c", "echo ~root; echo a b | { read x y; echo $y; }"), "/root"),
    Work("perl", ("/usr/bin/perl", "-e", PERL), "root 0 /root"),
    Work("python", ("/usr/bin/python3", "-c", PYTHON, "argument"), "[(3, 'a,b,c')]"),
    Work(
        "python-spawn",
        ("/usr/bin/python3", "spawn.py"),
        "[0, 1, 4, 9, 16, 25, 36, 49, 64]",
        files={"spawn.py": SPAWN},
    ),
    Work("numpy", (sys.executable, "-c", NUMPY), "[22.409298  1.95534 ", timeout=180),
    Work(
        "gcc",
        GCC,
        "",
        tools=_gcc_tools(),
        files=COMPILES,
        outputs=("program",),
    ),
    Work(
        "g++",
        ("/usr/bin/g++", "-B", "tools/", "-O1", "-c", "program.cc", "-o", "program.o"),
        "",
        tools=_gcc_tools(),
        files=COMPILES,
        outputs=("program.o",),
        everywhere=False,
    ),
    Work(
        "clang",
        ("/usr/bin/clang", "-O2", "program.c", "-o", "program", "-lm"),
        "",
        files=COMPILES,
        outputs=("program",),
        everywhere=False,
    ),
    Work(
        "compile-and-run",
        ("/bin/bash", "-c", " ".join(GCC) + " && ./program x && objdump -d program | head -20"),
        "8.5 ran",
        files=COMPILES,
        needs=("gcc", "objdump"),
    ),
    Work(
        "ffmpeg",
        ("/bin/bash", "-c", FFMPEG),
        "#format: frame checksums",
        tools={"ffmpeg": "/usr/bin/ffmpeg"},
        everywhere=False,
    ),
    Work(
        "gdb",
        (
            "/usr/bin/gdb", "-nx", "-batch", "-q",
            "-ex", "shell gcc -g -O0 program.c -o program -lm",
            "-ex", "file program",
            *(part for command in GDB for part in ("-ex", command)),
        ),
        "length (p=...)",
        files=COMPILES,
        needs=("gcc",),
        everywhere=False,
        normalise=without_addresses,
    ),
    Work(
        "sqlite3",
        ("/usr/bin/sqlite3", "-batch"),
        "2000,667000.0,name999",
        stdin=SQL,
        outputs=("saved.db",),
        status=1,
    ),
    Work(
        "archives",
        (
            "/bin/bash",
            "-c",
            "seq 5000 > a; tar c --mtime=@0 --owner=0 --group=0 a | gzip -n | tee t.gz | gunzip"
            " | tar tv; sha256sum t.gz; xz -k a && xz -dc a.xz | cmp - a && bzip2 < a | bunzip2"
            " | md5sum; grep -c 7 a; sed -n '/99$/p' a | awk '{ s += $1 } END { print s }'",
        ),
        "-rw-r--r--",
        tools={
            name: f"/usr/bin/{name}"
            for name in ("tar", "gzip", "xz", "bzip2", "grep", "sed", "sort", "sha256sum")
        }
        | {"awk": "/usr/bin/mawk"},
        needs=("gunzip", "bunzip2"),
        everywhere=False,
    ),
    Work(
        "openssl",
        (
            "/bin/bash",
            "-c",
            "echo text | openssl dgst -sha256; openssl list -providers | grep name;"
            " echo text | openssl enc -aes-256-cbc -pbkdf2 -k pw | openssl enc -d -aes-256-cbc"
            " -pbkdf2 -k pw; openssl genrsa 1024 2> /dev/null | openssl rsa -noout -check 2>&1",
        ),
        "text\n",
        tools={"openssl": "/usr/bin/openssl"},
        everywhere=False,
    ),
    Work(
        "make",
        ("/usr/bin/make", "-j2", "-s", "all"),
        "built two from one\n",
        files={
            "Makefile": "all: two\n\t@echo built two from $$(cat one)\n"
            "one:\n\techo one > $@\ntwo: one\n\tcp one two\n"
        },
    ),
)  # fmt: skip
