"""Whatever happens to the link, the process that makes it, and the cache: the program starts.

With the right output, through an image or plainly; what is kept is whole, or is not there.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from spidl.cache.store import NEW, Store

from .harness import Outcome, run
from .starts import Place, in_namespace, root_only, told, tracees, value


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def right(result: Outcome, number: int = 1) -> bool:
    """Insist on the right output; whether it came through the image."""
    assert result.status == 0, result
    assert result.stdout in (b"%d image\n" % number, b"%d plain\n" % number), result
    return result.stdout.endswith(b"image\n")


def whole(place: Place) -> None:
    """At most one entry, that can be used; nothing half-written but by a killed writer."""
    entries = [item for item in Store(str(place.cache)).entries() if not item.name.startswith(NEW)]
    assert len(entries) <= 1
    for entry in entries:
        assert entry.kept is not None, entry.fault


def at_rest(place: Place) -> None:
    """No process is left that links the program, or that is the program."""
    deadline = time.monotonic() + 30
    while (left := tracees(place.main)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


# -- many at once, and sudden ends -----------------------------------------------------------------


def begin(place: Place, **variables: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        place.words("run", str(place.main)), env=place.environment(**variables),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def test_fifty_at_once(place: Place) -> None:
    running = [begin(place) for _ in range(50)]
    for process in running:
        stdout, stderr = process.communicate(timeout=120)
        assert right(Outcome(stdout, stderr, process.returncode)) in (True, False)
        assert stderr == b""
    assert len(list((place.cache / "images").iterdir())) == 1
    assert place.never() == told(1, "image")


def test_fifty_at_once_that_link_later(place: Place) -> None:
    """In the background: each start is plain or right, and one image is there in the end."""
    running = [begin(place, SPIDL_RELINK="later") for _ in range(50)]
    for process in running:
        stdout, stderr = process.communicate(timeout=120)
        right(Outcome(stdout, stderr, process.returncode))
        assert stderr == b""
    deadline = time.monotonic() + 60
    while place.never() != told(1, "image") and time.monotonic() < deadline:
        time.sleep(0.05)
    at_rest(place)
    assert place.never() == told(1, "image")
    assert len(list((place.cache / "images").iterdir())) == 1


def child_of(process: subprocess.Popen[bytes]) -> int | None:
    """Of a launcher: its Python."""
    try:
        text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    except OSError:
        return None
    return int(text.split()[0]) if text.split() else None


def kill(process: subprocess.Popen[bytes], whom: str) -> None:
    if whom == "python":
        child = child_of(process)
        if child is not None:
            os.kill(child, signal.SIGKILL)
    elif process.poll() is None:
        (os.killpg if whom == "group" else os.kill)(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("whom", ["group", "launcher", "python"])
def test_killed_while_linking(place: Place, whom: str) -> None:
    """At moments all over a link, whose length is measured first."""
    began = time.monotonic()
    right(place.start())
    took = time.monotonic() - began
    pick = random.Random(whom)
    for step in range(8):
        shutil.rmtree(place.cache / "images", ignore_errors=True)
        process = begin(place)
        time.sleep(took * (step + pick.random()) / 8)
        kill(process, whom)
        stdout, stderr = process.communicate(timeout=60)
        if whom == "python" or process.returncode == 0:
            right(Outcome(stdout, stderr, process.returncode))
        else:
            assert (stdout, stderr, process.returncode) == (b"", b"", -signal.SIGKILL)
        right(place.never())
        whole(place)
        at_rest(place)
    assert place.start() == told(1, "image")
    whole(place)


def test_killed_while_linking_again(place: Place) -> None:
    """The old entry stays until the new one is whole, and is never believed."""
    for step in range(5):
        assert place.start() == told(step + 1, "image")
        os.rename(value(place.folder / "new", step + 2), place.lib / "libvalue.so")
        process = begin(place)
        time.sleep(0.05 + 0.06 * step)
        kill(process, "group")
        process.communicate(timeout=60)
        right(place.never(), step + 2)
        whole(place)
        at_rest(place)


def test_interrupted_at_the_keyboard(place: Place) -> None:
    """SIGINT to the whole group while it links: the start ends by it, as the program would."""
    process = begin(place)
    while child_of(process) is None and process.poll() is None:
        time.sleep(0.001)
    time.sleep(0.15)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (stdout, process.returncode) == (b"", -signal.SIGINT), stderr
    assert b"spidl" not in stderr
    at_rest(place)
    assert place.start() == told(1, "image")


@pytest.mark.parametrize("python", ["/bin/false", "/bin/true", "/no-home", "/", "/etc/passwd"])
def test_python_is_broken(place: Place, python: str) -> None:
    """Ends with 1, does nothing and says that it is done, is gone, is no program."""
    line = [str(place.launcher), f"--python={python}", "run", str(place.main)]
    result = run(line, env=place.environment())
    assert right(result) is False
    assert b"spidl: warning[start/no-" in result.stderr, result
    # Under an enabled name nobody is told.
    link = place.enable(place.folder / "bin")
    kept = link.parent / ".spidl" / link.name
    words = [w for w in kept.read_bytes().split(b"\0") if w[:1] not in (b"I", b"")]
    kept.write_bytes(b"\0".join([*words, b"I" + os.fsencode(python), b""]))
    assert run([str(link)], env=place.environment()) == told(1, "plain")


# -- caches that cannot be written, or used --------------------------------------------------------


@root_only
def test_a_full_disk(place: Place) -> None:
    """Of bytes and of files; what is kept in spite of it is whole."""
    options = [f"size={kb}k" for kb in (4, 64, 128, 200, 300, 1000)]
    options += [f"size=8m,nr_inodes={n}" for n in (2, 4, 5, 6, 8)]
    script = """
cache="$2"; main="$1"; shift 2; mkdir -p "$cache"
for options; do
  mount -t tmpfs -o "$options,mode=700" none "$cache"
  spidl run "$main"
  SPIDL_RELINK=never spidl run "$main"
  rm -f "$cache"/images/*/entry; mkdir -p "$cache/rest" 2>/dev/null || true
  umount "$cache"
done"""
    result = in_namespace(script, place.main, place.cache, *options, env=place.environment())
    lines = result.stdout.splitlines()
    assert len(lines) == 2 * len(options), result
    assert result.status == 0, result
    assert set(lines) == {b"1 image", b"1 plain"}, result
    assert lines[0] == b"1 plain"
    assert lines[2 * 5 + 1] == b"1 image"
    for text in result.stderr.split(b"spidl: ")[1:]:
        assert text.startswith(b"warning[cache/cannot-write]"), result


@root_only
@pytest.mark.parametrize("flags", ["noexec", "ro", "nosuid,nodev"])
def test_a_cache_on_a_strange_mount(place: Place, flags: str) -> None:
    script = """
mkdir -p "$2"
mount -t tmpfs -o mode=700 none "$2"
spidl run "$1"
mount -o "remount,$4" "$2"
SPIDL_RELINK=never spidl run "$1"
spidl run "$1"
"$3"
rm -rf "$2"/images/* 2>/dev/null || true
"$3"
"""
    link = place.enable(place.folder / "bin")
    result = in_namespace(script, place.main, place.cache, link, flags, env=place.environment())
    how = b"1 plain" if flags == "noexec" else b"1 image"
    assert result.stdout.splitlines() == [b"1 image", how, how, how, how], result
    warnings = result.stderr.count(b"spidl: warning[start/exec]")
    assert warnings == (2 if flags == "noexec" else 0), result
    assert result.stderr.count(b"spidl: ") == warnings, result


@pytest.mark.parametrize(
    "variables",
    [
        {"HOME": "/no-home"},
        {"HOME": ""},
        {"HOME": "relative"},
        {"HOME": "/dev/null"},
        {"HOME": "/proc"},
        {"HOME": "/proc", "XDG_CACHE_HOME": "relative"},
        {"HOME": "/proc" + "/x" * 2000},
        {"SPIDL_CACHE": "/proc" + "/x" * 2000},
        {"SPIDL_CACHE": "/proc/self/x"},
        {"SPIDL_CACHE": "/dev/null/x"},
    ],
    ids=lambda variables: next(iter(variables)) + next(iter(variables.values()))[:20],
)  # fmt: skip
def test_no_place_to_keep_anything(place: Place, variables: dict[str, str]) -> None:
    """It says so, or nothing under an enabled name; a home that is not there is not made."""
    env = place.environment()
    del env["SPIDL_CACHE"]
    result = run(place.words("run", str(place.main)), env={**env, **variables}, cwd=place.folder)
    assert right(result) is False
    assert result.stderr.startswith(b"spidl: warning[cache/"), result
    place.cache = Path("/proc/none")
    link = place.enable(place.folder / "bin")
    result = run([str(link)], env={**env, **variables}, cwd=place.folder)
    assert result.stderr == b""
    right(result)
    assert not Path("/no-home").exists()


@pytest.mark.parametrize("name", ["a\nb", "a b", "\xe9\xff", "%s", "x" * 200, "./a/../b//c"])
def test_a_strange_place(place: Place, name: str) -> None:
    place.cache = place.folder / "caches" / name
    place.cache.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        assert place.start() == told(1, "image")


def test_home_is_unset(place: Place) -> None:
    env = {k: v for k, v in place.environment().items() if k not in ("HOME", "SPIDL_CACHE")}
    result = run(place.words("run", str(place.main)), env=env)
    assert right(result) is False
    assert b"spidl: warning[cache/no-home]" in result.stderr, result


# -- what is kept is damaged -----------------------------------------------------------------------


def damages(content: bytes) -> Sequence[bytes]:
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    return (
        b"",
        content[:1],
        content[:64],
        content[: len(content) // 2],
        content[:-1],
        bytes(flipped),
    )


@pytest.mark.parametrize("in_place", [True, False])
def test_a_damaged_image(place: Place, in_place: bool) -> None:
    """Cut, and one bit another, in the file that was written or in a new one: not executed."""
    right(place.start())
    image = place.images()[0]
    content = image.read_bytes()
    kept = image.parent / "entry"
    for damaged in damages(content):
        if in_place:
            image.write_bytes(damaged)
        else:
            (place.folder / "image").write_bytes(damaged)
            (place.folder / "image").chmod(0o700)
            os.rename(place.folder / "image", image)
        assert place.never() == told(1, "plain")
    image.unlink()
    assert place.never() == told(1, "plain")
    kept.unlink()
    assert place.never() == told(1, "plain")
    assert place.start() == told(1, "image")


@pytest.fixture(scope="module")
def mended(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """One place that is damaged again and again; each start that may link puts it right."""
    return Place(tmp_path_factory.mktemp("mended"))


@pytest.mark.parametrize("what", ["folder", "fifo", "link", "loop", "device"])
@pytest.mark.parametrize("where", ["entry", "image", "KEY", "images", "lock"])
def test_something_else_in_its_place(mended: Place, where: str, what: str) -> None:
    """Nothing waits for a FIFO's other end, nothing follows a link; then all is well again."""
    assert mended.start() == told(1, "image")
    image = mended.images()[0]
    path = {"entry": image.parent / "entry", "image": image, "KEY": image.parent,
            "images": mended.cache / "images", "lock": mended.cache / "lock"}[where]  # fmt: skip
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if what == "folder":
        path.mkdir(0o700)
    elif what == "fifo":
        os.mkfifo(path, 0o600)
    else:
        targets = {"device": Path("/dev/zero"), "loop": path, "link": mended.folder / "nowhere"}
        path.symlink_to(targets[what])
    assert right(mended.never()) == (where == "lock")
    right(mended.start())
    if where in ("images", "lock"):  # not Spidl's own to remove: it says so and goes on
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        assert right(mended.start())
