"""What is refused, and how it is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spidl import live
from spidl.testing import expect
from tests.needs import tool

Build = Callable[..., Path]


def test_a_library_must_not_make_stacks_executable(build: Build) -> None:
    with expect("live/unsafe"):
        live.load(build("kinds.c", "-Wl,-z,execstack"))


@pytest.mark.parametrize("program", ["ls", "gcc"])
def test_programs_are_no_libraries(program: str) -> None:
    with expect("live/not-a-library"):
        live.load(tool(program, program))


def test_the_processs_own_libraries_are_not_loaded_twice() -> None:
    with expect("live/host-library") as expected:
        live.load("libc.so.6")
    assert "ctypes" in (expected.diagnostic.help or "")
    with expect("live/host-library"):
        live.load("/lib/x86_64-linux-gnu/libm.so.6")


def test_what_is_not_there() -> None:
    with expect("collect/not-found"):
        live.load("libnobody.so.7")
    with expect("collect/not-found"):
        live.load("/nowhere/libnobody.so")


def test_damaged_files(tmp_path: Path, build: Build) -> None:
    content = build("kinds.c").read_bytes()
    (tmp_path / "short.so").write_bytes(content[:200])
    with expect("parse/truncated"):
        live.load(tmp_path / "short.so")
    (tmp_path / "text.so").write_text("INPUT(libz.so)")
    with expect("parse/not-elf"):
        live.load(tmp_path / "text.so")


def test_missing_symbols_and_declarations(build: Build) -> None:
    with live.load(build("kinds.c")) as kinds:
        with expect("live/no-symbol"):
            kinds.function("nobody_has_this")
        with expect("live/header"):
            kinds.cffi("int (((;")
    with expect("live/no-symbol"):
        live.import_extension("kinds", build("kinds.c"))


def test_a_file_that_was_replaced_does_not_mix_with_what_is_loaded(
    build: Build, tmp_path: Path
) -> None:
    provider = build("tls.c")
    user = build("tls_user.c", f"-l:{provider.name}")
    namespace = live.Namespace()
    with live.load(provider, namespace=namespace):
        provider.with_suffix(".new").write_bytes(provider.read_bytes())
        provider.with_suffix(".new").replace(provider)
        with expect("live/changed"):
            live.load(user, namespace=namespace)
    with live.load(user, namespace=namespace) as fresh:
        assert fresh.function("other_shared")() == 8


def test_a_root_belongs_to_the_namespace(tmp_path: Path) -> None:
    with expect("live/other-root"):
        live.load("libz.so.1", namespace=live.Namespace(), root=str(tmp_path))


DAMAGED = """
import os, random, resource, sys
from spidl.diagnostics import LinkError
from spidl.live import Namespace
from spidl.live.loading import Loading

path, rounds = sys.argv[1], int(sys.argv[2])
whole, mutant, chance = open(path, "rb").read(), path + ".mutant", random.Random(path[-9:])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
words = [0, 1, 7, 8, 63, 4095, 4096, 1 << 20, 1 << 31, 1 << 32, 1 << 47, (1 << 63) - 1, 2**64 - 8]
places = [at for at in range(64, 0x400, 8)]
header = next(at for at in range(64, 0x400, 56) if whole[at : at + 4] == b"\\2\\0\\0\\0")
dynamic = int.from_bytes(whole[header + 8 : header + 16], "little")
places += [at for at in range(dynamic, dynamic + 0x1C0, 8)]

def attempt():
    loading = Loading(mutant, Namespace())
    try:
        loading.prepare()
        loading.lay()
        loading.bind()
    except LinkError:
        return 1
    finally:
        loading.undo()
    return 0

endings = {}
for _ in range(rounds):
    content = bytearray(whole)
    for _ in range(chance.choice([1, 1, 2, 3])):
        at = chance.choice(places)
        content[at : at + 8] = chance.choice(words).to_bytes(8, "little")
    if os.path.exists(mutant):
        os.unlink(mutant)
    with open(mutant, "wb") as file:
        file.write(content)
    child = os.fork()
    if not child:
        ending = 2
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
            ending = attempt()
        finally:
            os._exit(ending)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    endings[status] = endings.get(status, 0) + 1
print(sorted(endings), endings.get(1, 0) > rounds // 10)
"""


@pytest.mark.parametrize("option", ["-mtls-dialect=gnu2", "-ftls-model=initial-exec"])
def test_damaged_libraries_are_refused_or_placed_but_never_kill_the_process(
    build: Build, script: Callable[..., str], option: str
) -> None:
    """Up to the point where their code would run."""
    assert script(DAMAGED, build("tls.c", option), 150) == "[0, 1] True\n"
