"""`spidl cache`: what is kept, looked at and tended."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cli_answers import Command, compile_c

from spidl.cache.entry import encode
from spidl.cache.identity import identity
from spidl.cache.store import Store
from spidl.cli.states import parse_size, size_text


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Path:
    """A folder with the programs first, second and third, whose links are kept in cache/."""
    monkeypatch.setenv("SPIDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    compile_c(tmp_path, "program", "int main(void) { return 7; }")
    for age, name in enumerate(("third", "second", "first")):
        shutil.copy(tmp_path / "program", tmp_path / name)
        assert command("keep", name).status == 0
        when = time.time() - age * 86400
        os.utime(folder_of(command, name) / "entry", (when, when))
    return tmp_path


def folder_of(command: Command, name: str) -> Path:
    return Path(command("cache", "info", name, "--json").json["folder"])


def listed(command: Command) -> dict[str, str]:
    found = command("cache", "list", "--json").json["entries"]
    return {os.path.basename(entry["program"] or "?"): entry["state"] for entry in found}


def test_list_has_the_last_used_first(command: Command, place: Path) -> None:
    answer = command("cache", "list", "--json").json
    assert [os.path.basename(e["program"]) for e in answer["entries"]] == [
        "third", "second", "first",
    ]  # fmt: skip
    on_disk = sum(
        os.lstat(os.path.join(folder, name)).st_blocks * 512
        for folder, _, names in os.walk(place / "cache") for name in names if name != "lock"
    )  # fmt: skip
    assert answer["size"] == on_disk
    text = command("cache", "list").out
    assert text.count(" valid") == 3
    assert "2 days ago" in text


def test_an_empty_cache_is_no_error(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIDL_CACHE", str(tmp_path / "none"))
    for action in ("list", "verify", "gc", "clear"):
        answer = command("cache", action)
        assert (answer.status, answer.err) == (0, ""), action
    assert not (tmp_path / "none").exists()


def test_info_follows_an_entry_through_its_states(command: Command, place: Path) -> None:
    found = command("cache", "info", "first", "--json").json
    assert found["state"] == "valid"
    assert found["image"] == f"{found['folder']}/first"
    assert found["libraries"] == 2  # libc and its linker
    paths = {given["path"]: given["state"] for given in found["inputs"]}
    assert paths[str(place / "first")] == "unchanged"
    digest = subprocess.run(["sha256sum", found["image"]], capture_output=True, text=True,
                            check=True)  # fmt: skip
    assert digest.stdout.split()[0] == found["sha256"]
    os.utime(place / "first")
    found = command("cache", "info", "first", "--json").json
    assert found["state"] == "stale"
    assert str(place / "first") in found["why"]
    changed = [given["path"] for given in found["inputs"] if given["state"] == "changed"]
    assert changed == [str(place / "first")]
    assert "changed" in command("cache", "info", "first").out
    assert command("cache", "info", "first", "--layout=copy", "--json").json["state"] == "missing"
    command("cache", "info", "no-such-program").failed("collect/no-program")


def test_info_tells_options_and_variables(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_BIND_NOW", "1")
    command("keep", "--layout=copy", "first")
    found = command("cache", "info", "--layout=copy", "first", "--json").json
    assert (found["options"], found["environment"]) == (["--layout=copy"], ["LD_BIND_NOW=1"])


def test_a_refusal_is_kept_with_its_reason(command: Command, place: Path) -> None:
    (place / "second").chmod(0o4755)
    command("keep", "second")
    found = command("cache", "info", "second", "--json").json
    assert (found["state"], found["image"], found["sha256"]) == ("refused", None, None)
    assert "exec/privileged" in found["why"]
    assert command("cache", "verify").status == 0


def test_verify_finds_what_identities_do_not_show(command: Command, place: Path) -> None:
    """A disk that fails changes bytes and leaves times and size as they are."""
    folder = folder_of(command, "first")
    store = Store()
    content = bytearray((folder / "first").read_bytes())
    [stored] = [stored for stored in store.entries() if stored.folder == str(folder)]
    assert stored.kept is not None
    content[-1] ^= 1
    (folder / "first").write_bytes(content)
    entry = replace(stored.kept, written=identity(str(folder / "first")))
    (folder / "entry").write_bytes(encode(entry))
    assert listed(command)["first"] == "valid"
    answer = command("cache", "verify", "--json")
    assert answer.status == 2
    assert (answer.json["checked"], len(answer.json["damaged"])) == (3, 1)
    assert "digest" in answer.json["damaged"][0]["why"]
    assert "digest" in command("cache", "verify").out
    assert folder.exists()
    assert command("cache", "verify", "--repair").status == 0
    assert not folder.exists()
    assert command("cache", "verify").out == "2 checked, 0 damaged\n"


@pytest.mark.parametrize("damage", ["bit", "cut", "gone", "image"])
def test_verify_finds_damaged_entries(command: Command, place: Path, damage: str) -> None:
    folder = folder_of(command, "first")
    content = bytearray((folder / "entry").read_bytes())
    if damage == "bit":
        content[200] ^= 4
        (folder / "entry").write_bytes(content)
    elif damage == "cut":
        (folder / "entry").write_bytes(content[:-8])
    elif damage == "gone":
        (folder / "entry").unlink()
    else:
        (folder / "first").unlink()
    assert listed(command) == {"?": "damaged", "second": "valid", "third": "valid"}
    assert command("cache", "verify").status == 2
    assert command("cache", "verify", "--repair").status == 0
    assert listed(command) == {"second": "valid", "third": "valid"}


def test_gc_removes_the_least_recently_used(command: Command, place: Path) -> None:
    sizes = {os.path.basename(e["program"]): e["size"]
             for e in command("cache", "list", "--json").json["entries"]}  # fmt: skip
    records = command("cache", "list", "--json").json["objects"]["size"]
    most = sum(sizes.values()) + records - 1
    answer = command("cache", "gc", "--max-size", most, "--json").json
    gone = {r["what"] for r in answer["removed"]}
    assert gone == {str(place / "first")}
    assert answer["size"] <= most
    assert answer["freed"] == sizes["first"]
    assert listed(command) == {"second": "valid", "third": "valid"}
    assert command("cache", "gc", "--max-size=1G", "--json").json["removed"] == []
    command("cache", "gc", "--max-age=0.5")
    assert listed(command) == {"third": "valid"}
    command("cache", "gc", "--max-size=0")
    assert listed(command) == {}


def test_gc_drops_what_no_start_will_use(command: Command, place: Path) -> None:
    damaged = folder_of(command, "second")
    (place / "first").unlink()
    (damaged / "entry").write_text("of another version")
    left = place / "cache" / "images" / ".new-left"
    young = place / "cache" / "images" / ".new-young"
    foreign = place / "cache" / "images" / "notes"
    for folder in (left, young, foreign):
        folder.mkdir()
        (folder / "file").write_text("x")
    os.utime(left, (0, 0))
    command("cache", "gc")
    assert listed(command) == {"third": "valid"}
    assert not left.exists()
    assert young.exists(), "somebody is at it"
    assert foreign.exists(), "not of Spidl's making"


def lock(place: Path, folder: Path) -> subprocess.Popen[bytes]:
    """A process that holds an entry's lock until its standard input ends."""
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+');"
        "fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2][:15], 16));"
        "print(flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        ["python3", "-c", script, place / "cache" / "lock", folder.name],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    return holder


def test_what_is_being_linked_stays(command: Command, place: Path) -> None:
    with lock(place, folder_of(command, "first")) as holder:
        command("cache", "gc", "--max-size=0")
        assert listed(command) == {"first": "valid"}
        answer = command("cache", "clear")
        assert answer.status == 0
        assert "left: " in answer.out
        assert listed(command) == {"first": "valid"}
        assert (place / "cache" / "lock").exists()
        assert holder.stdin is not None
        holder.stdin.close()
    command("cache", "clear")
    assert not (place / "cache").exists()


def test_clear_removes_nothing_of_the_users(command: Command, place: Path) -> None:
    """SPIDL_CACHE may be anybody's folder, and links in it may lead anywhere."""
    mine = place / "mine"
    mine.mkdir()
    (mine / "letter").write_text("dear")
    (place / "cache" / "letter").write_text("dear")
    (place / "cache" / "images" / "notes").mkdir()
    (place / "cache" / "images" / "0123456789abcdef").symlink_to(mine)
    (place / "cache" / "objects").mkdir(exist_ok=True)
    (place / "cache" / "objects" / "notes").write_text("dear")
    (place / "cache" / "objects" / "fe01-22").write_text("a record")
    assert command("cache", "clear").status == 0
    assert sorted(os.listdir(place / "cache")) == ["images", "letter", "objects"]
    assert os.listdir(place / "cache" / "images") == ["notes"]
    assert os.listdir(place / "cache" / "objects") == ["notes"]
    assert (mine / "letter").read_text() == "dear"


@pytest.mark.parametrize("action", ["verify", "gc", "clear"])
def test_a_cache_of_somebody_else_is_left_alone(command: Command, place: Path, action: str) -> None:
    (place / "cache").chmod(0o777)
    command("cache", action).failed("cache/not-private")
    (place / "cache").chmod(0o700)
    assert len(listed(command)) == 3


def test_a_running_image_runs_on(command: Command, place: Path) -> None:
    compile_c(place, "waiter", '#include <stdio.h>\nint main(void) { puts("on"); fflush(stdout);'
                               " getchar(); return 7; }")  # fmt: skip
    command("keep", "waiter")
    image = command("cache", "info", "waiter", "--json").json["image"]
    with subprocess.Popen([image], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"on\n"
        command("cache", "clear")
        assert not os.path.exists(image)
        process.stdin.close()
        assert process.wait() == 7


@pytest.mark.parametrize(
    "words",
    [
        ["gc", "--max-size=many"],
        ["gc", "--max-size=-1"],
        ["gc", "--max-age=-1"],
        ["gc", "--max-age=nan"],
        ["gc", "--max-a=1"],
        ["info"],
        ["no-such-action"],
        [],
    ],
)
def test_bad_requests(command: Command, words: list[str]) -> None:
    command("cache", *words).failed("cli/usage")


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1000000", 10**6), ("500M", 500 << 20), ("2G", 2 << 30), ("1.5k", 1536),
     ("3 GiB", 3 << 30), ("7B", 7), ("", None), ("M", None), ("-1", None), ("1e3", None)],
)  # fmt: skip
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


def test_sizes_are_written_in_units_of_1024() -> None:
    assert [size_text(n) for n in (0, 1023, 1024, 150 << 10, 3 << 29)] == [
        "0 B", "1023 B", "1.0 KB", "150 KB", "1.5 GB",
    ]  # fmt: skip
