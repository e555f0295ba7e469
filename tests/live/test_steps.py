"""What a loaded library can do: symbols of all kinds, calls, variables, states."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl import live
from spidl.elf import ElfFile
from spidl.live import process
from spidl.live.loading import Loading
from spidl.live.members import Member
from spidl.testing import expect

Build = Callable[..., Path]


@pytest.mark.parametrize("options", [(), ("-Wl,-z,now",), ("-Wl,-z,pack-relative-relocs",)])
def test_symbols_of_all_kinds(build: Build, options: tuple[str, ...]) -> None:
    with live.load(build("kinds.c", *options)) as kinds:
        assert kinds.function("chosen")() == 1
        assert kinds.function("call_local")() == 1
        assert kinds.function("call_pointer")() == 1
        assert kinds.function("has_nobody")() == 0
        assert kinds.function("name", ctypes.c_char_p, [ctypes.c_int])(2) == b"three"
        assert kinds.function("length", ctypes.c_size_t, [ctypes.c_char_p])(b"seven") == 5
        variable = kinds.symbol("variable", ctypes.c_int)
        variable.value = 9
        pointer = kinds.symbol("to_variable", ctypes.POINTER(ctypes.c_int))
        assert pointer.contents.value == 9
        assert kinds.symbol("variable") == ctypes.addressof(variable)
        ctypes.set_errno(0)
        assert kinds.function("fail")() == -1
        assert ctypes.get_errno() == 0
        assert kinds.function("fail", use_errno=True)() == -1
        assert ctypes.get_errno() == errno.ENOTDIR


def test_memory_of_one_side_is_freed_by_the_other(build: Build) -> None:
    with live.load(build("kinds.c")) as kinds:
        block = kinds.function("allocate", ctypes.c_void_p)()
        assert ctypes.string_at(block, 200000) == b"x" * 200000
        free = ctypes.CDLL(None).free
        free.argtypes = [ctypes.c_void_p]
        free(block)


def test_two_instances_have_variables_of_their_own(build: Build) -> None:
    path = build("kinds.c")
    with live.load(path) as one, live.load(path) as other:
        one.symbol("variable", ctypes.c_int).value = 1
        assert other.symbol("variable", ctypes.c_int).value == 5


def test_a_closed_library_cannot_be_used(build: Build) -> None:
    library = live.load(build("kinds.c"))
    chosen = library.function("chosen")
    text = library.function("name", ctypes.c_char_p, [ctypes.c_int])
    library.close()
    library.close()
    for use in (chosen, lambda: text(1), lambda: library.function("chosen"),
                lambda: library.symbol("variable"), lambda: library.handle):  # fmt: skip
        with expect("live/closed"):
            use()
    assert "closed" in repr(library)


def _permissions(member: Member) -> set[str]:
    found = set()
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, _, end = line.split()[0].partition("-")
            if member.start <= int(start, 16) and int(end, 16) <= member.end:
                found.add(line.split()[1])
    return found


def test_a_placed_library_cannot_run_and_no_page_is_ever_writable_and_executable(
    build: Build,
) -> None:
    loading = Loading(str(build("kinds.c")), live.Namespace())
    loading.prepare()
    assert loading.members == []
    loading.lay()
    (member,) = loading.members
    assert member.state == "placed"
    assert _permissions(member) == {"r--p", "rw-p"}
    loading.bind()
    assert _permissions(member) == {"r--p", "rw-p"}
    loading.initialise()
    assert _permissions(member) == {"r--p", "rw-p", "r-xp"}
    handle = member.shell.handle
    loading.undo()
    assert handle not in process.link_maps()


def test_a_slot_in_relro_can_be_rebound_while_it_is_used(build: Build) -> None:
    library = live.load(build("kinds.c", "-Wl,-z,now"))
    (member,) = library.namespace.members
    file = ElfFile.open(member.path)
    slot = next(
        member.bias + int(row["r_offset"])
        for row in file.jmprel
        if file.symbol_name(int(row["r_sym"])) == "strlen"
    )
    assert member.in_relro(slot)
    length = library.function("length", ctypes.c_size_t, [ctypes.c_char_p])
    assert length(b"abc") == 3
    answer = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_char_p)(lambda text: 1000)
    before = process.read_word(slot)
    member.write([(slot, ctypes.cast(answer, ctypes.c_void_p).value or 0)])
    assert length(b"abc") == 1000
    member.write([(slot, before)])
    assert length(b"abc") == 3
    assert "rw-p" in _permissions(member)
    library.close()


def test_relro_is_read_only(script: Callable[..., str], build: Build) -> None:
    out = script(
        """
        import os, sys
        from spidl import live
        library = live.load(sys.argv[1])
        member = library.namespace.members[0]
        child = os.fork()
        if not child:
            import resource
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            from spidl.live import process
            process.write_word(member.relro[0], 0)
            os._exit(0)
        print(os.WTERMSIG(os.waitpid(child, 0)[1]))
        """,
        build("kinds.c", "-Wl,-z,now"),
    )
    assert out == "11\n"


def test_bindings_say_who_gave_what(build: Build) -> None:
    with live.load(build("kinds.c")) as kinds:
        (found,) = [item for item in live.libraries() if item.path == kinds.path]
        assert (found.namespace, found.state) == (kinds.namespace.name, "initialised")
        assert found.start <= kinds.symbol("variable") < found.end
        bindings = {item.name: item for item in found.bindings}
        assert os.path.basename(bindings["strlen"].provider or "") == "libc.so.6"
        assert bindings["strlen"].version == "GLIBC_2.2.5"
        assert bindings["nobody"].provider is None
        assert bindings["variable"].provider == kinds.path
        assert bindings["variable"].address == kinds.symbol("variable")
    assert all(item.path != kinds.path for item in live.libraries())
