"""Run a program under the system's linker and as an image, and insist that nothing differs.

The oracle is always the system's own linker on this machine, never a recorded text: a program
prints facts about itself, and both ways must print the same.  Used by the tests beside this file
and by the survey (tests/survey).
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Layout = Literal["shared", "copy"]
LAYOUTS: tuple[Layout, ...] = ("shared", "copy")

SOURCE = Path(__file__).resolve().parents[2] / "src"
PLAIN_WAY = b"spidl: plain way:"
STEERING = ("LD_", "MALLOC_", "GLIBC_TUNABLES")
"""Variables that change a link; an image is built under those of the run that it serves."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run showed: two streams in full, and the exit status (-N: killed by signal N)."""

    stdout: bytes
    stderr: bytes
    status: int

    @property
    def crashed(self) -> bool:
        return self.status < 0

    def __str__(self) -> str:
        return (
            f"status {describe_status(self.status)}\n"
            f"--- stdout\n{_shorten(self.stdout)}\n--- stderr\n{_shorten(self.stderr)}"
        )


def describe_status(status: int) -> str:
    """``0``, ``127`` or ``SIGSEGV``."""
    return signal.Signals(-status).name if status < 0 else str(status)


class Timeout(AssertionError):
    """The program did not end in time; its process group was killed."""


class BuildFailed(AssertionError):
    """``spidl build`` did not write an image.  ``code`` is the diagnostic's, None for a crash."""

    def __init__(self, program: Path, result: Outcome) -> None:
        self.result = result
        self.code: str | None = None
        self.refused = False
        for line in result.stderr.decode(errors="replace").splitlines():
            for severity in ("error", "refused"):
                head = f"spidl: {severity}["
                if line.startswith(head):
                    self.code = line[len(head) :].partition("]")[0]
                    self.refused = severity == "refused"
        super().__init__(f"spidl build {program}: {result}")


def run(
    argv: Sequence[str | bytes],
    *,
    executable: Path | None = None,
    cwd: Path | None = None,
    stdin: bytes | None = b"",
    env: Mapping[str, str] | None = None,
    limits: Mapping[int, tuple[int, int]] | None = None,
    timeout: float = 60,
) -> Outcome:
    """Run ``argv`` (from ``executable``, if given) in a process group of its own.

    ``limits`` maps ``resource.RLIMIT_*`` to (soft, hard); ``stdin`` None closes descriptor 0.
    Raises `Timeout` after killing the whole group.
    """

    def prepare() -> None:
        for which, values in (limits or {}).items():
            resource.setrlimit(which, values)
        if stdin is None:
            os.close(0)

    with (
        tempfile.TemporaryFile() as feed,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        # Files, not pipes: a daemon that a program leaves behind cannot hold the harness.
        feed.write(stdin or b"")
        feed.seek(0)
        process = subprocess.Popen(
            argv,
            executable=executable,
            cwd=cwd,
            env=dict(os.environ if env is None else env),
            stdin=feed,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=prepare if limits or stdin is None else None,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Timeout(f"{argv!r} did not end within {timeout} s") from None
        finally:
            _kill_group(process)
        out.seek(0)
        err.seek(0)
        return Outcome(out.read(), err.read(), status)


@dataclass
class Images:
    """Images that were built, one for each program, layout and set of steering variables."""

    folder: Path
    options: tuple[str, ...] = ()
    """Of ``spidl build``, such as --config."""
    _built: dict[tuple[str, Layout, tuple[tuple[str, str], ...]], Path | BuildFailed] = field(
        default_factory=dict
    )

    def get(
        self, program: Path, layout: Layout, env: Mapping[str, str], timeout: float = 120
    ) -> Path:
        """The image of ``program``; raises `BuildFailed`, again for each later call."""
        program = Path(os.path.abspath(program))
        steering = tuple(sorted((k, v) for k, v in env.items() if k.startswith(STEERING)))
        key = (str(program), layout, steering)
        if key not in self._built:
            digest = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
            image = self.folder / f"{program.name}.{layout}.{digest}"
            result = spidl(
                ["build", *self.options, str(program), "-o", str(image), f"--layout={layout}"],
                steering=dict(steering),
                timeout=timeout,
            )
            failed = result.status != 0 or not image.exists()
            self._built[key] = BuildFailed(program, result) if failed else image
        found = self._built[key]
        if isinstance(found, BuildFailed):
            raise found
        return found

    def trim(self, limit: int) -> None:
        """Delete images of more than ``limit`` bytes; they are built again when needed.  A copied
        image is as big as all its libraries."""
        for key, found in list(self._built.items()):
            if isinstance(found, Path) and found.stat().st_size > limit:
                del self._built[key]
                found.unlink()


def spidl(
    arguments: Sequence[str],
    *,
    steering: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    timeout: float = 120,
) -> Outcome:
    """Run Spidl's own command line from this source tree, with only these steering variables."""
    env = {k: v for k, v in os.environ.items() if not k.startswith((*STEERING, "SPIDL_"))}
    env["PYTHONPATH"] = str(SOURCE)
    env.update(steering or {})
    return run(
        [sys.executable, "-m", "spidl", *arguments], env=env, cwd=cwd, stdin=stdin, timeout=timeout
    )


def compare(
    argv: Sequence[str | bytes],
    *,
    program: Path | None = None,
    cwd: Path | None = None,
    prepare: Callable[[Path], None] | None = None,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    layout: Layout = "shared",
    images: Images | None = None,
    status: int | None = 0,
    expect: str | None = None,
    limits: Mapping[int, tuple[int, int]] | None = None,
    outputs: Sequence[str] = (),
    tools: Mapping[str, Path] | None = None,
    normalise: Callable[[bytes], bytes] | None = None,
    image_is_used: bool = True,
    timeout: float = 60,
) -> Outcome:
    """Run ``argv`` under the system's linker and as an image; raise AssertionError if they differ.

    ``program`` is the file to run, by default ``argv[0]``.  With ``prepare``, ``cwd`` is emptied
    and prepared before each run.  ``status`` and ``expect`` (all of stdout) say what the oracle
    itself must give, so that a broken test program cannot pass twice; ``status`` None takes any.
    ``tools`` are more programs that it starts: ``cwd``/tools/NAME is each time a link to the
    program or to its image.  ``outputs`` are files below ``cwd`` whose content must be equal too.
    Nothing is normalised but by ``normalise``, which a test passes with its reason.

    With ``image_is_used`` another run under SPIDL_VERBOSE=1 must not take the plain way; without,
    it must: then the test is about a guard.
    """
    image_store = images if images is not None else default_images()
    environment = {
        k: v for k, v in (os.environ if env is None else env).items() if not k.startswith("SPIDL_")
    }
    target = program if program is not None else Path(os.fsdecode(argv[0]))
    image = image_store.get(target, layout, environment)
    tool_images = {
        name: image_store.get(path, layout, environment) for name, path in (tools or {}).items()
    }
    clean = normalise if normalise is not None else _same

    def once(
        executable: Path, used_tools: Mapping[str, Path], extra: Mapping[str, str]
    ) -> tuple[Outcome, dict[str, bytes | None]]:
        if prepare is not None or used_tools:
            assert cwd is not None, "prepare and tools need a folder"
            empty(cwd)
            (cwd / "tools").mkdir()
            for name, path in used_tools.items():
                (cwd / "tools" / name).symlink_to(path)
        if prepare is not None and cwd is not None:
            prepare(cwd)
        outcome = run(
            argv,
            executable=executable,
            cwd=cwd,
            stdin=stdin,
            env={**environment, **extra},
            limits=limits,
            timeout=timeout,
        )
        return outcome, {name: _content((cwd or Path()) / name) for name in outputs}

    oracle, oracle_files = once(target, tools or {}, {})
    if status is not None:
        assert oracle.status == status, f"the system's linker already fails: {argv!r}: {oracle}"
    if expect is not None:
        assert oracle.stdout.decode() == expect, f"the system's linker already differs: {oracle}"
    for name, content in oracle_files.items():
        assert content is not None, f"the system's linker already fails to write {name}: {oracle}"
    result, files = once(image, tool_images, {})
    assert_same(oracle, result, argv, clean)
    for name, content in oracle_files.items():
        assert files[name] == content, f"{argv!r} as {layout} image wrote another {name}"
    verbose, _ = once(image, tool_images, {"SPIDL_VERBOSE": "1"})
    if image_is_used:
        assert PLAIN_WAY not in verbose.stderr, f"the image was not used: {verbose}"
    else:
        assert PLAIN_WAY in verbose.stderr, f"a guard let a changed start pass: {verbose}"
    return oracle


def assert_same(
    oracle: Outcome,
    result: Outcome,
    argv: Sequence[str | bytes],
    clean: Callable[[bytes], bytes] | None = None,
) -> None:
    """Raise AssertionError, showing both, unless streams and status are equal."""
    clean = clean if clean is not None else _same
    same = (
        oracle.status == result.status
        and clean(oracle.stdout) == clean(result.stdout)
        and clean(oracle.stderr) == clean(result.stderr)
    )
    assert same, f"{argv!r} differs\n== system's linker: {oracle}\n== image: {result}"


def empty(folder: Path) -> None:
    """Delete everything below ``folder``, which keeps its inode."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


_default: Images | None = None


def default_images() -> Images:
    """A store in a temporary folder that lives as long as this process."""
    global _default
    if _default is None:
        folder = tempfile.mkdtemp(prefix="spidl-images-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        _default = Images(Path(folder))
    return _default


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _same(text: bytes) -> bytes:
    return text


def _shorten(text: bytes, limit: int = 3000) -> str:
    shown = text[:limit].decode(errors="backslashreplace")
    return shown + (f"... ({len(text)} bytes)" if len(text) > limit else "")


_FORBIDDING = """
import ctypes, os, struct, sys
lines = [(0x20, 0, 0, 0), (0x15, 0, 1, int(sys.argv[1])), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("=HBBI", *line) for line in lines)
buffer = ctypes.create_string_buffer(code)
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
filter = struct.pack("=HxxxxxxQ", len(lines), ctypes.addressof(buffer))
assert libc.prctl(22, 2, filter, 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


def forbidding(call: int) -> list[str]:
    """Words to put before a command, under which one system call is answered with EPERM."""
    return [sys.executable, "-c", _FORBIDDING, str(call)]
