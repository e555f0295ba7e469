"""What a program inherits, and how it ends: byte by byte as without Spidl.

Also at the first start, for which Python links in a process that the program must not see; and
where Python has no room to work.  Programs are started by an enabled name, as in a shell.
"""

from __future__ import annotations

import os
import pty
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from .attack import environment, program
from .starts import enable

SRC = Path(__file__).parent / "src"


@dataclass
class World:
    """The program that reports, and an enabled name for it."""

    folder: Path
    main: Path
    link: Path
    cache: Path

    def start(
        self,
        executable: Path,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        prepare: Callable[[], object] | None = None,
        **options: object,
    ) -> tuple[int, bytes, bytes]:
        """Exit status, the report, and what came out at stderr."""
        report = self.folder / "report"
        report.unlink(missing_ok=True)
        with (self.folder / "errors").open("w+b") as errors, open("/etc/hostname", "rb") as feed:
            process = subprocess.Popen(
                argv,
                executable=executable,
                env={**environment(HOME=str(self.folder)), **(env or {}), "REPORT": str(report)},
                stdin=feed,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                preexec_fn=prepare,
                restore_signals=False,
                start_new_session=True,
            )
            status = process.wait(60)
            errors.seek(0)
            text = report.read_bytes() if report.exists() else b""
            return status, text, errors.read()

    def same(
        self,
        argv: Sequence[str] = ("program", "a", ""),
        env: Mapping[str, str] | None = None,
        prepare: Callable[[], object] | None = None,
        *,
        first: bool = True,
        status: int = 0,
    ) -> bytes:
        """Without Spidl, at the first start (which links), and through the image."""
        oracle = self.start(self.main, argv, env, prepare)
        assert oracle[0] == status
        assert (oracle[1] != b"", oracle[2]) == (True, b"")
        if first:
            shutil.rmtree(self.cache, ignore_errors=True)
        for _ in range(2 if first else 1):
            assert self.start(self.link, argv, env, prepare) == oracle
        return oracle[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    main = program(folder / "place/program", (SRC / "inherited.c").read_text())
    cache = folder / "cache"
    return World(folder, main, enable(main, cache, folder / "bin", "program"), cache)


@pytest.fixture
def linked(world: World) -> World:
    """With an image that is in use: its identity of the file says so."""
    world.same(first=not list(world.cache.glob("images/*/program")))
    assert list(world.cache.glob("images/*/program"))
    return world


def ignoring(*numbers: int) -> Callable[[], None]:
    def prepare() -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)

    return prepare


def blocking() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    os.kill(os.getpid(), signal.SIGUSR1)  # stays pending through execve


def everything_else() -> None:
    os.umask(0o123)
    os.nice(3)
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 21))
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
    resource.setrlimit(resource.RLIMIT_NPROC, (5000, 6000))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    signal.setitimer(signal.ITIMER_REAL, 500)
    os.dup2(os.open("/", os.O_RDONLY), 17)
    os.chdir("/usr")


@pytest.mark.parametrize(
    "prepare",
    [ignoring(signal.SIGPIPE), ignoring(signal.SIGCHLD), ignoring(signal.SIGINT, signal.SIGHUP),
     blocking, everything_else],
    ids=["SIGPIPE", "SIGCHLD", "SIGINT", "blocked", "everything else"],
)  # fmt: skip
def test_what_is_inherited(world: World, prepare: Callable[[], None]) -> None:
    world.same(prepare=prepare)
    assert list(world.cache.glob("images/*/program")), "it was linked"


@pytest.mark.parametrize("closed", list(product((0, 1), repeat=3))[1:])
def test_closed_descriptors(linked: World, closed: tuple[int, ...]) -> None:
    """None of Spidl's own files takes a place that the program finds closed."""

    def prepare() -> None:
        for number, is_closed in enumerate(closed):
            if is_closed:
                os.close(number)

    report = linked.same(prepare=prepare, first=closed in ((1, 1, 1), (0, 0, 1)))
    for number, is_closed in enumerate(closed):
        assert (b"\nfd %d:" % number in report) != is_closed


@pytest.mark.parametrize("end", ["0", "1", "2", "3", "126", "127", "255", "-9", "-11", "-15"])
def test_how_it_ends(linked: World, end: str) -> None:
    linked.same(env={"END": end}, first=end == "3", status=int(end))


def test_argv_0(linked: World) -> None:
    for name in ("", "-sh", "/no/such", "spidl", "keep", "--", "-", "a b\n", "x" * 5000):
        linked.same(argv=(name, "--python=x", "--", "run"), first=False)


def test_no_arguments_at_all(linked: World) -> None:
    """execve with argc 0."""
    source = """#include <unistd.h>
int main(int argc, char **argv) { (void)argc; return execve(argv[1], argv + 2, environ); }"""
    helper = program(linked.folder / "helper", f"#define _GNU_SOURCE\n{source}")
    oracle = linked.start(helper, ["helper", str(linked.main)])
    assert (oracle[0], oracle[1][:7]) == (0, b"argc 1\n")
    for _ in range(2):
        assert linked.start(helper, ["helper", str(linked.link)]) == oracle
        shutil.rmtree(linked.cache, ignore_errors=True)


def test_a_terminal(linked: World) -> None:
    """The foreground of a terminal, at the first start as well."""
    reports = []
    for executable, fresh in ((linked.main, 0), (linked.link, 1), (linked.link, 0)):
        if fresh:
            shutil.rmtree(linked.cache, ignore_errors=True)
        report = linked.folder / "terminal"
        child, terminal = pty.fork()
        if child == 0:
            env = {**environment(HOME=str(linked.folder)), "REPORT": str(report)}
            os.execve(executable, ["program"], env)
        os.write(terminal, b"typed\n\x04")
        assert os.waitpid(child, 0)[1] == 0
        os.close(terminal)
        reports.append(report.read_bytes())
    assert b"terminal 1, foreground 1\n" in reports[0]
    assert b"stdintyped\n" in reports[0]
    assert reports == [reports[0]] * 3


def test_order_and_doubles_of_the_environment(linked: World) -> None:
    """As raw strings: two of one name, one without a name, one without `=`."""
    raw = ["B=2", "A=1", "B=3", "=empty", "no equals sign", "Z=", "A=1", "SPIDL_RELINK=never"]
    source = """#include <unistd.h>
int main(int argc, char **argv) { (void)argc; return execve(argv[1], argv + 2, argv + 4); }"""
    helper = program(linked.folder / "raw", source)
    report = linked.folder / "report"
    reports = []
    for executable in (linked.main, linked.link):
        words = [str(executable), "program", "word", f"REPORT={report}", *raw]
        assert linked.start(helper, ["raw", *words])[0] == 0
        reports.append(report.read_bytes())
    assert reports[0].count(b"\nenv ") == len(raw) + 1
    assert reports[1] == reports[0]


@pytest.mark.parametrize("first", [True, False])
def test_many_variables_that_steer_the_linker(linked: World, first: bool) -> None:
    """More than a key can hold, and one that is longer than a key may be."""
    for env in ({f"LD_NONE_{i}": "x" * i for i in range(100)}, {"LD_NONE": "x" * 131_000}):
        linked.same(env=env, first=first)


def test_up_to_the_kernel_s_limit(linked: World) -> None:
    """A line that is as long as the kernel takes it, and one beyond that: E2BIG from execve."""

    def start(executable: Path, size: int, env: Mapping[str, str]) -> str:
        words = ["program", *["x" * 131_000] * (size // 131_000), "y" * (size % 131_000)]
        try:
            return repr(linked.start(executable, words, env))
        except OSError as error:
            return str(error.errno)

    low, high = 1 << 20, 1 << 22
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if start(linked.main, middle, {}) == "7" else (middle, high)
    assert high < 1 << 22
    room = len(str(linked.main)) + 200
    for size in (low - room, low - 2 * room, high + room):
        oracle = start(linked.main, size, {})
        assert start(linked.link, size, {}) == oracle
    # Where the image's path is a little longer than the program's own: plainly.
    for size in range(low - room, low, 16):
        status = start(linked.link, size, {})
        assert status == "7" or status == start(linked.main, size, {})
    shutil.rmtree(linked.cache, ignore_errors=True)
    assert start(linked.link, low - room, {}) == start(linked.main, low - room, {})


def limits() -> Iterator[tuple[int, int]]:
    yield from ((resource.RLIMIT_NOFILE, n) for n in (3, 4, 5, 6, 8, 12))
    yield from ((resource.RLIMIT_FSIZE, n) for n in (4096, 50_000))
    yield from ((resource.RLIMIT_AS, n << 20) for n in (3, 8, 40, 200))
    yield from ((resource.RLIMIT_DATA, n << 20) for n in (1, 20))
    yield resource.RLIMIT_STACK, 256 << 10
    yield resource.RLIMIT_NPROC, 1


@pytest.mark.parametrize(("which", "limit"), list(limits()))
def test_little_room(linked: World, which: int, limit: int) -> None:
    """Also for Python, which then cannot link: the program starts, and nobody is told."""

    def prepare() -> None:
        resource.setrlimit(which, (limit, limit))

    oracle = linked.start(linked.main, ["program"], prepare=prepare)
    for _ in range(2):
        result = linked.start(linked.link, ["program"], prepare=prepare)
        # What has no room under ld.so has none here, and says so in other words.
        assert result == oracle or (oracle[0] != 0 and result[:2] == oracle[:2])
        shutil.rmtree(linked.cache, ignore_errors=True)
