"""spidl explain: the passes, who binds to whom, who wrote a word."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cli_answers import Command, compile_c

HOOK = """
from spidl.api import RELOCATE, Definition, Module

class Answer(Module):
    \"\"\"Answers one symbol and takes over relocate.\"\"\"
    after = ("sysv",)

    def register(self, dso, pipeline):
        main = pipeline.main(RELOCATE)
        pipeline.resolver(self.resolve)
        pipeline.strong(RELOCATE, lambda dso, link: main(dso, link))

    def resolve(self, request, dso, link):
        if request.name == "second" and dso.is_root:
            return Definition(None, "second", 0x1234)
        return None
"""


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    path = tmp_path / "hook.py"
    path.write_text(HOOK)
    return path


def got_slot(program: Path, symbol: str, kind: str) -> int:
    """Where readelf says the relocation of a symbol is."""
    listing = subprocess.run(
        ["readelf", "-rW", program], capture_output=True, text=True, check=True
    ).stdout
    for line in listing.splitlines():
        if kind in line and re.search(rf"\b{symbol}(@| )", line):
            return int(line.split()[0], 16)
    raise AssertionError(f"no {kind} of {symbol} in\n{listing}")


def by_name(rows: list[dict[str, Any]], asker: str) -> dict[str, Any]:
    found = [row for row in rows if row["asker"].endswith(f"/{asker}") and row["lookup"] != "copy"]
    assert len(found) == 1, found
    return found[0]


def test_passes(command: Command, program: Path) -> None:
    answer = command("explain", program)
    assert answer.status == 0
    assert answer.err == ""
    rows = [line.split() for line in answer.out.splitlines()]
    assert ["collect", "preload", "preload", "weak", "program"] in rows
    assert ["collect", "sysv", "collect", "main", "5", "objects"] in rows
    assert ["post-relocate", "sysv", "copy_objects", "weak", "the", "whole", "link"] in rows
    assert ["start", "gnu", "Gnu.register.<locals>.start", "main,", "not", "run", "program"] in rows
    assert ["start", "sysv", "start", "gnu", "program"] in rows, "what was taken over"
    assert "\x1b" not in answer.out


def test_whole_json(command: Command, program: Path) -> None:
    found = command("explain", "--json", program).json
    assert found["modules"] == ["preload", "sysv", "gnu", "musl"]
    names = [one["name"] for one in found["objects"]]
    assert names[:4] == ["program", "libfirst.so", "libsecond.so", "libc.so.6"]
    assert [one["scope"] for one in found["objects"]][:4] == [1, 2, 3, 4]
    assert found["objects"][3]["tls"]["module"] == 1
    ran = {(run["phase"], run["module"]) for run in found["passes"] if run["ran"]}
    assert ("protect", "sysv") in ran
    assert not any(phase == "start" for phase, _ in ran)
    assert found["taken_over"] == [
        {"phase": "start", "module": "sysv", "object": "program", "pass": "start", "by": "gnu"}
    ]
    assert {m["object"] for m in found["mappings"]} == set(names)
    keys = {"asker", "symbol", "version", "provider", "provider_version", "lookup", "namespace",
            "owner"}  # fmt: skip
    assert all(keys <= set(binding) for binding in found["bindings"])
    printf = by_name([b for b in found["bindings"] if b["symbol"] == "printf"], "program")
    assert printf["version"] == printf["provider_version"] == "GLIBC_2.2.5"
    assert printf["provider"].endswith("/libc.so.6")
    weak = by_name([b for b in found["bindings"] if b["symbol"] == "nobody"], "libfirst.so")
    assert (weak["provider"], weak["address"], weak["weak"]) == (None, 0, True)


def test_program_is_not_run(
    command: Command, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("explain started a process")

    for name in ("os.fork", "os.posix_spawn", "os.execv", "subprocess.Popen.__init__"):
        monkeypatch.setattr(name, never)
    for argv in (("explain",), ("explain", "--at", "libc.so.6+0"), ("tree",)):
        assert command(argv[0], program, *argv[1:]).status == 0


def test_symbol(command: Command, program: Path) -> None:
    found = command("explain", "--json", program, "twice").json
    assert found["bindings"] == []
    assert [d["verdict"] for d in found["definitions"]] == ["not asked for", "not asked for"]
    found = command("explain", "--json", program, "second").json
    assert by_name(found["bindings"], "libfirst.so")["provider"].endswith("/libsecond.so")
    (definition,) = found["definitions"]
    assert definition["scope"] == 3
    assert definition["verdict"] == "answers 2"
    text = command("explain", program, "second").out
    assert text.startswith("second: 2 ask for it\n")
    assert re.search(r"main 3 +\S+/libsecond\.so +second +func +\d+ +0x\w+ +answers 2\n", text)


def test_copied_object_wins(command: Command, program: Path) -> None:
    """The program's copy comes first in scope; only the COPY itself asks the library."""
    found = command("explain", "--json", program, "shared_number").json
    (copy,) = (b for b in found["bindings"] if b["lookup"] == "copy")
    assert copy["provider"].endswith("/libsecond.so")
    assert [d["object"].rpartition("/")[2] for d in found["definitions"]] == [
        "program", "libsecond.so",
    ]  # fmt: skip


def test_plt_entry_answers_no_call(command: Command, original: Path, tmp_path: Path) -> None:
    """Without PIE a function's address is the program's PLT entry; calls go on to the library."""
    program = compile_c(
        tmp_path, "address", "int second(void); int (*volatile p)(void);"
        "int main(void) { p = second; return p() - second(); }",
        "-no-pie", "-fno-pie", "-Wl,-z,lazy",
        f"-L{original}", "-lsecond", f"-Wl,-rpath,{original}",
    )  # fmt: skip
    found = command("explain", "--json", program, "second").json
    own, library = found["definitions"]
    assert own["kind"] == "address of its PLT entry"
    assert own["verdict"].startswith("does not fit; ")
    assert library["verdict"] == "answers 1"


def test_versions(command: Command, program: Path) -> None:
    """NAME@VERSION keeps to one version; old versions say that nobody asks for them."""
    found = command("explain", "--json", program, "memcpy").json
    versions = {d["version"]: d for d in found["definitions"]}
    assert set(versions) == {"GLIBC_2.2.5", "GLIBC_2.14"}
    assert versions["GLIBC_2.14"]["default"] is True
    assert versions["GLIBC_2.2.5"]["verdict"] in ("not asked for", "nobody asks for GLIBC_2.2.5")
    text = command("explain", program, "memcpy").out
    assert "memcpy@GLIBC_2.2.5 " in text
    assert "memcpy@@GLIBC_2.14 " in text
    assert command("explain", program, "printf@GLIBC_2.2.5").status == 0
    command("explain", program, "printf@NO_SUCH").failed("explain/no-symbol")


def test_module_answers(command: Command, program: Path, hook: Path) -> None:
    found = command("explain", "--json", "--with", hook, program, "second").json
    binding = by_name(found["bindings"], "program")
    assert (binding["owner"], binding["address"]) == ("answer", 0x1234)
    text = command("explain", "--with", hook, program).out
    assert re.search(r"relocate +sysv +relocate +answer +5 objects", text)
    assert re.search(r"resolver +answer +5 objects", text)
    slot = got_slot(program, "second", "R_X86_64_")
    found = command("explain", "--json", "--with", hook, program, "--at", f"program+{slot:#x}").json
    assert found["writes"][-1]["owner"] == "answer"
    assert found["writes"][-1]["module"] == "answer"
    assert found["writes"][-1]["value"] == 0x1234


def test_word(command: Command, program: Path) -> None:
    slot = got_slot(program, "printf", "R_X86_64_")
    found = command("explain", "--json", program, "--at", f"program+{slot:#x}").json
    assert found["address"] == slot, "a program that is not position-independent does not move"
    (write,) = found["writes"]
    assert (write["phase"], write["module"], write["object"]) == ("relocate", "sysv", "program")
    assert write["table"] in ("DT_RELA", "DT_JMPREL")
    assert write["symbol"] == "printf"
    assert write["version"] == "GLIBC_2.2.5"
    assert write["provider"].endswith("/libc.so.6")
    assert write["points_to"].endswith("printf@GLIBC_2.2.5")
    assert found["value"]["word"] == write["value"]
    assert found["deferred"] is None
    mapping = found["mapping"]
    assert (mapping["phase"], mapping["module"], mapping["permission"]) == ("load", "sysv", "rw-")
    assert [p["permission"] for p in mapping["protected"]] == ["r--"]
    in_file = program.read_bytes()[mapping["file_offset"] :]
    assert len(in_file) > 8
    text = command("explain", program, "--at", f"program+{slot:#x}").out
    assert "symbol printf@GLIBC_2.2.5, answered by " in text


def test_absolute_address_is_stable(command: Command, program: Path) -> None:
    first = command("explain", "--json", program, "--at", "libc.so.6+0x1000").json
    again = command("explain", "--json", program, "--at", hex(first["address"])).json
    assert again == first
    assert first["spot"] == "libc.so.6+0x1000"
    byte = Path(first["mapping"]["file"]).read_bytes()[first["mapping"]["file_offset"]]
    assert first["value"]["word"] & 0xFF == byte
    assert (
        "by nobody: the content is the file's"
        in command("explain", program, "--at", "libc.so.6+0x1000").out
    )


def test_copied_bytes(command: Command, program: Path) -> None:
    slot = got_slot(program, "shared_number", "R_X86_64_COPY")
    found = command("explain", "--json", program, "--at", f"program+{slot:#x}").json
    (write,) = found["writes"]
    assert (write["phase"], write["type"]) == ("post-relocate", "R_X86_64_COPY")
    assert write["copied_from"].endswith(" shared_number")
    assert found["value"]["word"] & 0xFFFFFFFF == 3


def test_deferred_word(command: Command, program: Path) -> None:
    """libc's own IFUNCs: the value is what a function returns at start."""
    found = command("explain", "--json", program).json
    ifunc = next(d for d in found["deferred"] if d["object"] == "libc.so.6")
    where = hex(ifunc["addresses"][0])
    deferred = command("explain", "--json", program, "--at", where).json["deferred"]
    assert deferred["reason"] == ifunc["reason"]
    assert deferred["resolver"].startswith("libc.so.6+0x")
    assert deferred["type"] in ("R_X86_64_IRELATIVE", "R_X86_64_JUMP_SLOT", "R_X86_64_GLOB_DAT")
    text = command("explain", program, "--at", where).out
    assert "the value is made at start" in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["no_such_symbol"], "explain/no-symbol"),
        ([""], "explain/no-symbol"),
        (["x\x1b[31m\udcff"], "explain/no-symbol"),
        (["--at", "nonsense"], "explain/bad-address"),
        (["--at", ""], "explain/bad-address"),
        (["--at", "-1"], "explain/bad-address"),
        (["--at=-1"], "explain/bad-address"),
        (["--at", "libc.so.6+-1"], "explain/bad-address"),
        (["--at", "libc.so.6+0x10000000000000000"], "explain/bad-address"),
        (["--at", "0x10"], "explain/not-mapped"),
        (["--at", "libc.so.6+0x7000000000000000"], "explain/not-mapped"),
        (["--at", "libmissing.so+0x10"], "explain/no-object"),
        (["printf", "--at", "0x10"], "cli/usage"),
        (["--nonsense"], "cli/usage"),
        (["printf", "puts"], "cli/usage"),
        (["--at"], "cli/usage"),
        (["--with", "no-such-module"], "register/unknown-module"),
        (["--config", "/no/such/file"], "config/unreadable"),
    ],
)
def test_errors(command: Command, program: Path, arguments: list[str], code: str) -> None:
    answer = command("explain", program, *arguments).failed(code)
    assert "\x1b" not in answer.err


def test_similar_names_are_shown(command: Command, program: Path) -> None:
    assert (
        "there is: printf, "
        in command("explain", program, "Printf").failed("explain/no-symbol").err
    )


@pytest.mark.parametrize("name", ["explain", "tree", "bench"])
@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [
        (None, 0, "collect/no-program"),
        ("folder", 0, "collect/not-a-program"),
        ("#!/bin/sh\necho hi\n", 0o755, "parse/not-elf"),
        ("plain text", 0o644, "collect/not-a-program"),
        ("", 0o755, "parse/not-elf"),
        ("\x7fELF", 0o755, "parse/truncated"),
    ],
)
def test_not_a_program(
    command: Command, tmp_path: Path, name: str, content: str | None, mode: int, code: str
) -> None:
    path = tmp_path / "thing"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content.encode("latin-1"))
        path.chmod(mode)
    command(name, path).failed(code)


@pytest.mark.parametrize("name", ["explain", "tree", "bench"])
def test_no_program_given(command: Command, name: str) -> None:
    command(name).failed("cli/usage")
