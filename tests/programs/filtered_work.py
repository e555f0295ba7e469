"""Real work for filtered programs, as data: what is done here must be allowed.

Each piece of work is a few commands of one program.  Their output must not vary; what it writes to
files is its own matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

FILES = {
    "file": "text\nmore\n",
    "data.csv": "b,2\na,1\nc,3\n",
    "one.c": "int main(void){return 0;}",
}
"""What each work finds in its folder."""


@dataclass(frozen=True)
class Filtered:
    """Commands that run one after the other in one folder, each as ``argv[0]`` or as its image."""

    name: str
    package: str
    commands: tuple[tuple[str, ...], ...]
    stdin: bytes = b"c\nb\na\n"
    settings: Mapping[str, object] = field(default_factory=dict)
    """The module's; ``exec`` names what strace sees started."""
    starts: tuple[str, ...] = ()
    """More programs that it starts."""
    is_traced: bool = True
    """Whether strace can follow it; not those that trace others themselves."""


BASH = """
set -e; declare -A m=([a]=1); for i in {1..5}; do ((m[a] += i)); done; echo "${m[a]}"
echo one > f; echo two >> f; while read -r l; do echo "<$l>"; done < f; [[ -f f && -s f ]]
(cd /; pwd); echo $(echo inner | (read x; echo "$x$x")); printf '%s\\n' {b,a} | sort; wc -l < f
trap 'echo bye' EXIT; sleep 0.01 & wait; ulimit -n > /dev/null; umask; mkfifo p; (echo x > p &)
cat p; exec 3<>f; read -u 3 y; echo "$y"; kill -0 $$; cat <<< "$BASHPID" > /dev/null
"""
DASH = """
set -e; x=1; while [ $x -lt 4 ]; do x=$((x + 1)); done; echo $x; echo ~root; cd /; pwd; cd - > f
echo a b | { read x y; echo $y; }; (exit 3) || echo $?; trap 'echo bye' EXIT; sleep 0.01 & wait $!
test -d / && umask && ulimit -n > /dev/null && kill -0 $$ && cat <<END
here
END
"""
PERL = """
use POSIX; use Socket; use File::Temp; use List::Util qw(sum); use Time::HiRes qw(usleep);
print sum(1 .. 10), " ", POSIX::floor(2.5), " ", (getpwuid(0))[0], "\\n";
socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, 0); syswrite($a, "hi\\n"); print scalar(<$b>);
my ($file, $name) = File::Temp::tempfile(UNLINK => 1); print $file "x" x 10; close $file;
print -s $name, "\\n"; usleep(100); mkdir "d"; rename "d", "e"; rmdir "e";
my $child = fork; if (!$child) { POSIX::_exit(3) } waitpid $child, 0; print $? >> 8, "\\n";
print join(",", sort { $a <=> $b } map { $_ * 3 % 7 } 1 .. 6), "\\n";
"""
SQL = (
    ("a.db", "create table t(a, b); insert into t values (1, 'x'), (2, 'y');"),
    ("a.db", "pragma journal_mode=wal; begin; delete from t where a = 1; commit;"),
    ("-json", "a.db", "select * from t; vacuum; pragma integrity_check;"),
    ("a.db", ".schema", ".dump", ".read /dev/null", ".backup b.db"),
)
GIT = (
    "init -q -b master .", "add file", "commit -qm first", "mv file other", "diff --stat --cached",
    "commit -qm second", "log --format=%s --stat -p", "branch side", "checkout -q side", "gc -q",
    "fsck --no-progress", "cat-file -p HEAD^{tree}", "status --short", "grep -n text",
    "blame other", "tag -am t v1", "describe", "archive HEAD", "clone -q . copy",
    "-C copy log --oneline", "format-patch -1 --stdout",
)  # fmt: skip


def words_of(program: str, *lines: str) -> tuple[tuple[str, ...], ...]:
    """Commands of one program, without quotes."""
    return tuple((program, *line.split()) for line in lines)


SMALL: tuple[Filtered, ...] = (
    Filtered(
        "ls", "coreutils", words_of("ls", "-la --color=always /etc/apt", "-RZ /etc/apt", "/no")
    ),
    Filtered(
        "cp", "coreutils", words_of("cp", "-av file copy", "--reflink=auto copy a", "-r /etc/apt b")
    ),
    Filtered(
        "sort",
        "coreutils",
        words_of(
            "sort",
            "-t, -k2n data.csv",
            "-R --random-source=/etc/passwd file",
            "--parallel=2 -S1M /etc/services -o sorted",
        ),
    ),
    Filtered("stat", "coreutils", words_of("stat", "-c%U:%G /", "-fc%T /proc")),
    Filtered("date", "coreutils", words_of("date", "-u -d@0", "-r /nothing")),
    Filtered(
        "dd", "coreutils", words_of("dd", "if=/dev/zero of=z bs=4k count=9 conv=fsync status=none")
    ),
    Filtered("id", "coreutils", words_of("id", "root", "-Gn daemon")),
    Filtered("tail", "coreutils", words_of("tail", "-n1 file", "--pid=999999999 -f file")),
    Filtered("env", "coreutils", words_of("env", "-i A=b env", "-S true")),
    Filtered("timeout", "coreutils", words_of("timeout", "9 true", "0.05 sleep 9", "-s9 1 cat")),
    Filtered("bash", "bash", (("bash", "-c", BASH),)),
    Filtered("dash", "dash", (("dash", "-c", DASH),)),
    Filtered("sed", "sed", words_of("sed", "-n $p file", "-i s/e/E/ file", "p file")),
    Filtered(
        "grep", "grep", words_of("grep", "-rn text .", "-P t\\w+t file", "-c . /etc/services")
    ),
    Filtered(
        "mawk",
        "mawk",
        (
            ("mawk", "-F,", '{ s += $2 } END { print s; system("echo x") }', "data.csv"),
            ("mawk", 'BEGIN { "echo y" | getline x; print x }'),
        ),
    ),
    Filtered(
        "find",
        "findutils",
        words_of(
            "find",
            "/etc/apt -type f -newer /etc/passwd",
            ". -name f* -ls -quit",
            ". -name file -exec cat {} ;",
            ". -name one.c -delete",
        ),
    ),
    Filtered("xargs", "findutils", words_of("xargs", "-n1 -P2 true", "echo")),
    Filtered(
        "tar",
        "tar",
        words_of(
            "tar",
            "czf a.tgz file data.csv",
            "tzf a.tgz",
            "xzf a.tgz -C /tmp file",
            "--xattrs -cf b.tar .",
            "df b.tar",
        ),
    ),
    Filtered("gzip", "gzip", words_of("gzip", "-k9 file", "-t file.gz", "-dc file.gz")),
    Filtered("xz", "xz-utils", words_of("xz", "-k -T2 file", "-l --robot file.xz", "-dc file.xz")),
    Filtered("zstd", "zstd", words_of("zstd", "-q -T2 file", "-dc file.zst", "-t -q file.zst")),
    Filtered("sqlite3", "sqlite3", tuple(("sqlite3", *line) for line in SQL)),
    Filtered("perl", "perl-base", (("perl", "-e", PERL),), settings={"unknown": "deny"}),
    Filtered("git", "git", words_of("git", *GIT)),
    Filtered(
        "make", "make", (("make", "-s", "-j2", "-f-"),), b"all: a b\n\t@echo $@\na b:\n\t@true\n"
    ),
    Filtered(
        "getent",
        "libc-bin",
        words_of(
            "getent",
            "passwd root",
            "hosts localhost",
            "services ssh",
            "group",
            "ahosts nothing.invalid",
        ),
    ),
    Filtered(
        "iconv", "libc-bin", words_of("iconv", "-f utf-8 -t utf-16 file", "-t euc-jp file", "-l")
    ),
    Filtered(
        "openssl",
        "openssl",
        (
            ("openssl", "dgst", "-sha256", "file"),
            ("openssl", "enc", "-aes-256-cbc", "-pbkdf2", "-k", "p", "-in", "file", "-out", "o"),
            ("openssl", "list", "-providers"),
            ("openssl", "genrsa", "-out", "k", "1024"),
        ),
    ),
    Filtered(
        "strace",
        "strace",
        words_of("strace", "-fcqo /dev/null true"),
        starts=("true",),
        is_traced=False,
    ),
    Filtered("ps", "procps", words_of("ps", "-o comm= -p 1", "-C nothing")),
)
"""Programs whose link and work take about a second."""
