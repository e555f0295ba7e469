"""Interfaces of glibc: each symbol that this machine's glibc exports belongs to one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from spidl.elf import SHN, STB, ElfFile
from spidl.modules.authorise.interfaces import Interfaces, contains, glibc

FOLDER = os.path.dirname(os.path.realpath("/lib/x86_64-linux-gnu/libc.so.6"))
LIBRARIES = sorted(name for name in glibc().libraries if os.path.isfile(os.path.join(FOLDER, name)))


def exported(name: str) -> Iterator[str]:
    """The symbols that a library exports, without the names of versions."""
    file = ElfFile.open(os.path.join(FOLDER, name))
    symbols = file.symbols
    defined = (symbols["st_shndx"] != SHN.UNDEF) & (symbols["st_shndx"] != SHN.ABS)
    for index in np.flatnonzero(defined & (symbols["st_info"] >> 4 != STB.LOCAL)):
        yield file.symbol_name(int(index))


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_export_belongs_to_an_interface(library: str) -> None:
    names = set(exported(library))
    assert {name for name in names if glibc().of(library, name) is None} == set()


def test_there_are_enough_libraries_to_look_at() -> None:
    assert {"libc.so.6", "ld-linux-x86-64.so.2", "libm.so.6"} <= set(LIBRARIES)
    assert len(set(exported("libc.so.6"))) > 2000


def test_no_interface_is_empty() -> None:
    """Each has a symbol of libc.so.6 or ld.so, besides those of libraries that are one whole."""
    used = {glibc().of(library, name) for library in LIBRARIES for name in exported(library)}
    assert glibc().interfaces.names - used == {"cryptography"} - used


@pytest.mark.parametrize(
    ("name", "interface"),
    [
        ("socket", "network.sockets"),
        ("connect", "network.sockets"),
        ("getaddrinfo", "network.names"),
        ("execve", "processes.start"),
        ("posix_spawn_file_actions_addopen", "processes.start"),
        ("system", "processes.start"),
        ("__libc_system", "processes.start"),
        ("ptrace", "processes.trace"),
        ("mprotect", "executable-memory"),
        ("__mmap", "executable-memory"),
        ("memfd_create", "executable-memory"),
        ("memcpy", "strings"),
        ("__memcpy_chk", "strings"),
        ("dlopen", "dynamic-linking.open"),
        ("dlsym", "dynamic-linking.look"),
        ("syscall", "system-calls"),
        ("__open64_2", "files.open"),
        ("fopen64", "files.open"),
        ("unlinkat", "files.change"),
        ("__fxstat64", "files.look"),
        ("__cxa_finalize", "startup"),
        ("exit", "processes.end"),
        ("setresuid", "privileges"),
        ("setenv", "environment.change"),
        ("pthread_create", "threads.start"),
        ("pthread_mutex_lock", "threads"),
        ("pthread_kill", "signals.send"),
        ("fread_unlocked", "streams"),
        ("__isoc99_sscanf", "streams"),
        ("wcstol", "strings"),
        ("isatty", "terminal"),
        ("isalpha", "characters"),
    ],
)
def test_who_would_look_for_it_there(name: str, interface: str) -> None:
    assert glibc().of("libc.so.6", name) == interface


def test_other_libraries_have_none() -> None:
    assert glibc().of("liblzma.so.5", "memcpy") is None
    assert glibc().of("libm.so.6", "sin") == "math"


def test_what_contains_what() -> None:
    assert contains("files", "files.open")
    assert contains("files.open", "files.open")
    assert not contains("files.open", "files")
    assert not contains("file", "files.open")


def test_names_come_before_wildcards_and_the_first_wildcard_counts() -> None:
    own = Interfaces({"a": "one* two", "b": "one oneself* *x"})
    assert [own.of(name) for name in ("one", "oneself", "two", "x", "other")] == [
        "b", "a", "a", "b", None,
    ]  # fmt: skip
