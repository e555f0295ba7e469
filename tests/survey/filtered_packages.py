"""How the test suites of some Debian packages are run with programs that are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ..needs import tool
from ..programs.harness import Outcome, Timeout, empty, run
from .filtered_sources import unpacked
from .programs import is_dynamic

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
STARTS = """
    sh bash perl awk basename cat chmod cmp cp cut date diff dirname echo env expr false find grep
    gzip head kill ln ls mkdir mkfifo mv printf pwd rm rmdir sed sleep sort stty tail tar tee test
    touch tr true tty uname uniq wc
""".split()  # noqa: SIM905 - a list of this length reads better as words
"""What scripts start: under the filter of whoever starts them."""
BOOT = ("arch_prctl", "fstat", "gettid", "msync", "prctl", "seccomp", "statx")
"""What an image asks for that is started under another's filter, besides what any program does."""
_SAID = re.compile(rb"^.*(?:seccomp/denied|Bad system call).*$", re.MULTILINE)
_OK = re.compile(rb"^ok \d+", re.MULTILINE)


@dataclass(frozen=True)
class Program:
    """An installed program, and the settings under which its filtered image is built."""

    path: Path
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Done:
    """A test that was run: what passed in it, and what was said of a stopped program."""

    passed: frozenset[str]
    said: str = ""


class Suite(Protocol):
    """A package's tests.  `run` takes the folder in which the programs are, under their names."""

    name: str
    steering: Mapping[str, str]
    """Variables that its tests set and that decide how programs are linked."""

    def prepare(self, folder: Path) -> None:
        """Unpack and build in ``folder``; raises `Unavailable`."""

    def programs(self) -> Mapping[str, Program]: ...

    def tests(self) -> Mapping[str, str]:
        """Each test, with the reason why it is left out, or nothing."""

    def run(self, test: str, programs: Path) -> Done: ...


def found(names: Iterable[str]) -> list[str]:
    """The paths of programs that this machine has."""
    paths = (shutil.which(name, path=SYSTEM_PATH) for name in names)
    return sorted({os.path.realpath(path) for path in paths if path is not None})


def attempt(argv: list[str], cwd: Path, env: Mapping[str, str], timeout: float = 120) -> Outcome:
    """Run a test; one that does not end has passed nothing."""
    try:
        return run(argv, cwd=cwd, env={"LC_ALL": "C", "TZ": "UTC", **env}, timeout=timeout)
    except Timeout:
        return Outcome(b"", b"", -9)


def said(outcome: Outcome) -> str:
    line = _SAID.search(outcome.stdout + b"\n" + outcome.stderr)
    return "" if line is None else line[0].decode(errors="replace")


def parts(outcome: Outcome) -> Done:
    """What a test that speaks TAP says."""
    passed = frozenset(ok.decode() for ok in _OK.findall(outcome.stdout))
    return Done(passed, said(outcome))


class Zlib:
    """test/example.c, minigzip.c and infcover.c, as ``make check`` runs them."""

    name = "zlib"
    steering: Mapping[str, str] = {}
    _WORKS: Mapping[str, str] = {
        "example": "$P/example tmpst.gz",
        "minigzip": 'test "$(echo hello world | $P/minigzip | $P/minigzip -d)" = "hello world"',
        "minigzip files": "cp $P/infcover f; $P/minigzip f && $P/minigzip -d f.gz"
        " && cmp f $P/infcover",
        "infcover": "$P/infcover",
    }

    def prepare(self, folder: Path) -> None:
        tree = unpacked("zlib", folder / "source")
        self._folder = folder / "built"
        self._folder.mkdir()
        for name, library in (("example", "-lz"), ("minigzip", "-lz"), ("infcover", "-l:libz.a")):
            source = str(tree / "test" / f"{name}.c")
            command = [
                "gcc",
                "-O1",
                "-w",
                f"-I{tree}",
                "-o",
                str(self._folder / name),
                source,
                library,
            ]
            subprocess.run(command, check=True)

    def programs(self) -> Mapping[str, Program]:
        return {path.name: Program(path) for path in sorted(self._folder.iterdir())}

    def tests(self) -> Mapping[str, str]:
        return dict.fromkeys(self._WORKS, "")

    def run(self, test: str, programs: Path) -> Done:
        scratch = programs.parent / "scratch" / test
        empty(scratch)
        env = {"PATH": SYSTEM_PATH, "P": str(programs)}
        outcome = attempt(["/bin/sh", "-c", self._WORKS[test]], scratch, env)
        return Done(frozenset([test] if outcome.status == 0 else []), said(outcome))


class Coreutils:
    """The scripts below tests/, with a folder of programs as the build's ``src``."""

    name = "coreutils"
    steering: Mapping[str, str] = {"MALLOC_PERTURB_": "87"}  # as tests/init.sh has it
    _STARTING = ("chroot", "env", "install", "nice", "nohup", "runcon", "sort", "split", "stdbuf",
                 "timeout")  # fmt: skip
    _LEFT_OUT: Mapping[str, str] = {
        r"\bgetlimits_": "needs getlimits, which only a build tree has",
        r"\brequire_built_|\b(?:ginstall|make-prime-list)\b": "needs a build tree",
        r"\brequire_root_": "changes the machine: mounts, users, devices",
        r"\bLD_PRELOAD\b|\brequire_gcc_shared_|\bstdbuf\b|_valgrind_|/misc/env-null\.sh": "sets or"
        " clears variables that decide a link, which an image under a policy refuses",
        r"\bulimit -[vs]|_ulimit_v_": "an image under a policy refuses other limits than it was"
        " made for",
        r"\b(?:very_)?expensive_|/tail-2/inotify-race": "takes minutes, or gdb",
    }

    def prepare(self, folder: Path) -> None:
        self._tree = unpacked("coreutils", folder / "source")
        self._folder = folder

    def programs(self) -> Mapping[str, Program]:
        listed = subprocess.run(["dpkg", "-L", "coreutils"], capture_output=True, text=True)
        paths = [Path(line) for line in listed.stdout.splitlines() if "bin/" in line]
        programs = {path.name: path for path in paths if path.is_file() and is_dynamic(path)}
        everything = [*found(STARTS), *map(str, programs.values())]
        starting = {"exec": everything, "allow": BOOT, "unknown": "deny"}
        return {
            name: Program(path, starting if name in self._STARTING else {})
            for name, path in programs.items()
        }

    def tests(self) -> Mapping[str, str]:
        scripts = sorted((self._tree / "tests").glob("*/*.sh"))
        scripts += sorted((self._tree / "tests").glob("*/*.pl"))
        tests = {}
        for script in scripts:
            name = str(script.relative_to(self._tree))
            if name == "tests/factor/run.sh" or name == "tests/factor/create-test.sh":
                continue  # what the build makes tests from
            text = f"/{name}\n{script.read_text(errors='replace')}"
            reasons = (why for what, why in self._LEFT_OUT.items() if re.search(what, text))
            tests[name] = next(reasons, "")
        return tests

    def run(self, test: str, programs: Path) -> Done:
        build = self._folder / f"build-{programs.name}" / test
        empty(build)
        (build / "src").symlink_to(programs)
        (build / "config.h").touch()
        source = str(self._tree)
        env = {
            "PATH": f"{programs}:{SYSTEM_PATH}", "HOME": str(build), "SHELL": "/bin/sh",
            "srcdir": source, "top_srcdir": source, "abs_srcdir": source, "abs_top_srcdir": source,
            "abs_top_builddir": str(build), "CONFIG_HEADER": str(build / "config.h"),
            "built_programs": " ".join(sorted(p.name for p in programs.iterdir())),
            "VERSION": self._tree.name.partition("-")[2], "PACKAGE_VERSION": "", "EXEEXT": "",
            "PERL": "/usr/bin/perl", "AWK": "awk", "EGREP": "grep -E", "CC": "gcc", "MAKE": "make",
            "host_os": "linux-gnu", "host_triplet": "x86_64-pc-linux-gnu", "fail": "0",
            "LOCALE_FR": "none", "LOCALE_FR_UTF8": "none", "TMPDIR": str(build),
            "CU_TEST_NAME": f"coreutils,{test.replace('/', '-')}", **self.steering,
        }  # fmt: skip
        script = f"{source}/{test}"
        command = f"exec /bin/sh {script} 9>&2"
        if test.endswith(".pl"):
            modules = f'-w -I{source}/tests -MCuSkip -MCoreutils -M"CuTmpdir qw({test})"'
            command = f"exec /usr/bin/perl {modules} {script} 9>&2"
        outcome = attempt(["/bin/sh", "-c", command], build, env)
        return Done(frozenset([test] if outcome.status == 0 else []), said(outcome))


class Git:
    """A part of t/, against an installed git (t/README, GIT_TEST_INSTALLED)."""

    name = "git"
    steering: Mapping[str, str] = {}
    _TESTS = re.compile(r"t(00[0-7]\d|100\d|130\d|30[02]\d|551\d|5570)-.*\.sh")
    _LEFT_OUT: Mapping[str, str] = {
        r"lib-httpd": "needs Apache",
        r"t0000-|t0030-|t0027-": "tests its own harness, or text conversions by the thousand",
    }
    _WITHOUT = ("OPENSSL", "CURL", "EXPAT", "GETTEXT", "TCLTK", "PYTHON")

    def prepare(self, folder: Path) -> None:
        self._tree = unpacked("git", folder / "source")
        self._folder = folder
        goals = ["GIT-BUILD-OPTIONS", "t/helper/test-tool"]
        without = [f"NO_{name}=1" for name in self._WITHOUT]
        command = [tool("make", "make"), "-s", "-j2", "CFLAGS=-O0 -w", *without, *goals]
        subprocess.run(command, cwd=self._tree, check=True, capture_output=True)
        (self._tree / "templates" / "blt").symlink_to("/usr/share/git-core/templates")

    def programs(self) -> Mapping[str, Program]:
        own = [str(path) for path in (self._tree / "t" / "helper" / "test-tool",) if path.exists()]
        core = Path("/usr/lib/git-core")
        own += [str(path) for path in sorted(core.iterdir()) if path.is_file() and is_dynamic(path)]
        names = [*STARTS, "git", "gpg", "gpg-agent", "gpgconf", "gpgsm", "ssh-keygen", "less", "vi"]
        settings = {"exec": [*found(names), *own], "allow": BOOT, "unknown": "deny"}
        return {"git": Program(Path("/usr/bin/git"), settings)}

    def tests(self) -> Mapping[str, str]:
        tests = {}
        for script in sorted((self._tree / "t").glob("t*.sh")):
            if self._TESTS.fullmatch(script.name):
                text = f"{script.name}\n{script.read_text(errors='replace')}"
                reasons = (why for what, why in self._LEFT_OUT.items() if re.search(what, text))
                tests[script.name] = next(reasons, "")
        return tests

    def run(self, test: str, programs: Path) -> Done:
        root = self._folder / f"trash-{programs.name}-{test}"
        results = self._folder / f"results-{programs.name}"
        results.mkdir(exist_ok=True)
        env = {
            "PATH": SYSTEM_PATH,
            "HOME": str(root),
            "GIT_TEST_INSTALLED": str(programs),
            "TEST_NO_MALLOC_CHECK": "1",  # by variables that an image was not linked with
            "TEST_OUTPUT_DIRECTORY": str(results),
            "TERM": "dumb",
            "SHELL": "/bin/sh",
        }
        argv = ["/bin/sh", f"./{test}", "-v", f"--root={root}"]
        done = parts(attempt(argv, self._tree / "t", env, timeout=300))
        shutil.rmtree(root, ignore_errors=True)
        return done


class Perl:
    """A part of t/ and lib/, with the installed perl and its modules as the build's."""

    name = "perl"
    steering: Mapping[str, str] = {}
    _LEFT_OUT: Mapping[str, str] = {
        r"re/uniprops|re/fold_grind|op/pack\.t|lib/unicore": "minutes of computing",
        r"lib/(?:Config|dumpvar|perl5db|perlbug|h2ph|h2xs|Internals)": "needs the build tree",
    }
    _MODULES = ("/usr/lib/x86_64-linux-gnu/perl-base", "/usr/lib/x86_64-linux-gnu/perl/{0}",
                "/usr/share/perl/{0}")  # fmt: skip

    def prepare(self, folder: Path) -> None:
        tree = unpacked("perl", folder / "source")
        version = tree.name.partition("-")[2]
        self._folder = folder
        for way in ("plain", "filtered"):
            own = folder / f"tree-{way}"
            shutil.copytree(tree / "t", own / "t", symlinks=True)
            shutil.copytree(tree / "lib", own / "lib", symlinks=True)
            for place in self._MODULES:
                modules = place.format(version)
                subprocess.run(["cp", "-rLf", f"{modules}/.", own / "lib"], check=True)
            (own / "t" / "perl").symlink_to(folder / way / "perl")

    def programs(self) -> Mapping[str, Program]:
        settings = {"exec": found([*STARTS, "perl"]), "allow": BOOT, "unknown": "deny"}
        return {"perl": Program(Path("/usr/bin/perl"), settings)}

    def tests(self) -> Mapping[str, str]:
        tree = self._folder / "tree-plain"
        places = ("t/op", "t/io", "t/re", "t/uni", "t/mro", "t/lib", "lib")
        scripts = [script for place in places for script in sorted((tree / place).glob("*.t"))]
        tests = {}
        for script in scripts:
            name = str(script.relative_to(tree))
            reasons = (why for what, why in self._LEFT_OUT.items() if re.search(what, name))
            tests[name] = next(reasons, "")
        return tests

    def run(self, test: str, programs: Path) -> Done:
        tree = self._folder / f"tree-{programs.name}"
        env = {"PATH": SYSTEM_PATH, "PERL_CORE": "1", "HOME": str(tree), "TERM": "dumb"}
        script = test.removeprefix("t/") if test.startswith("t/") else f"../{test}"
        return parts(attempt(["./perl", "-I../lib", script], tree / "t", env))
