"""ld.so as the run-time linker that stays: recognising it, and where its work is done.

Everything here is found by looking at the build at hand.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from spidl.api import (
    EXPECTED_RUNTIME,
    INTERPRETER,
    RUNTIME,
    Action,
    Dso,
    ElfFile,
    Jump,
    Link,
    LinkError,
    Place,
    Refusal,
    Runtime,
)

SONAME = "ld-linux-x86-64.so.2"


@cache
def is_glibc(interpreter: str | None) -> bool:
    """Whether a program's PT_INTERP is glibc's linker."""
    if interpreter is None:
        return False
    try:
        return ElfFile.open(interpreter).soname == SONAME
    except LinkError:
        return False


def interpreter(link: Link) -> str | None:
    """The path of ld.so: the program's own, unless a module has told another."""
    return link.facts.get(INTERPRETER, None) or link.root.file.interp


def interpreter_of(link: Link) -> Dso:
    """ld.so's object."""
    interp = interpreter(link)
    assert interp is not None, "a glibc program has a PT_INTERP"
    found = link.known(interp)
    assert found is not None, "post-collect added it"
    return found


def needs_linker(link: Link) -> bool:
    """Whether anything needs ld.so at run time: a libc does (DT_NEEDED), and so does TLS."""
    return link.known(SONAME) is not None or any(dso.file.tls for dso in link.objects)


def enter(link: Link) -> list[Action]:
    """Continue where ld.so has relocated everything and goes on to run constructors."""
    runtime = link.facts[RUNTIME] = _runtime(link)
    return [Jump(runtime.stop, rax=link.root.bias + link.root.file.entry)]


def expect_runtime(link: Link) -> None:
    """Post-load: tell the target what `enter` is going to tell; an error can wait for that."""
    if needs_linker(link):
        with suppress(LinkError):
            link.facts[EXPECTED_RUNTIME] = _runtime(link)


def _runtime(link: Link) -> Runtime:
    linker = interpreter_of(link)
    return Runtime(linker, linker.bias + stop_vaddr(linker), "LD_BIND_NOW")


def stop_vaddr(linker: Dso) -> int:
    """The return address of ``call _dl_start`` at ld.so's entry (RTLD_START, dl-machine.h).

    The entry is ``mov %rsp,%rdi; call _dl_start``, possibly after an endbr64.
    """
    code = linker.file.read(linker.file.entry, 32).tobytes()
    at = code.find(b"\x48\x89\xe7\xe8")
    if at < 0:
        raise Refusal(
            "start/unknown-linker",
            f"{linker.name} does not begin with a call of _dl_start",
            place=Place(linker.path, vaddr=linker.file.entry),
            help="this build of glibc is not known; please report its build-id",
        )
    return linker.file.entry + at + 8
