"""The process's symbols, read from its files, against dlsym and dlvsym."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from spidl import live
from spidl.elf import ElfFile

pytestmark = pytest.mark.usefixtures("each_way")
LIBRARIES = ("libcrypto.so.3", "libsqlite3.so.0", "libstdc++.so.6", "libpq.so.5")
_SYMBOLS = ctypes.CDLL(None)
_SYMBOLS.dlsym.restype = _SYMBOLS.dlvsym.restype = ctypes.c_void_p
_SYMBOLS.dlsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_SYMBOLS.dlvsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]


@cache
def _handle(path: str) -> int | None:
    """dlopen's handle of a library that is there; None for the program and for ld.so."""
    if ".so" not in path or os.path.basename(path).startswith("ld-"):
        return None
    handle: int = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)._handle
    return handle


@pytest.mark.parametrize("name", LIBRARIES)
def test_each_binding_is_what_dlsym_gives(name: str) -> None:
    """IFUNCs too: the word that was written is what glibc's own resolving gives."""
    with live.load(name) as library:
        own = {member.path for member in library.namespace.members}
        compared = 0
        for member in library.namespace.members:
            file = ElfFile.open(member.path)
            words = {
                file.symbol_name(int(row["r_sym"])): (
                    ctypes.c_uint64.from_address(member.bias + int(row["r_offset"])).value,
                    row["r_type"] == 7,
                )
                for table in (file.rela, file.jmprel)
                for row in table
                if row["r_type"] in (6, 7) and row["r_sym"]  # GLOB_DAT, JUMP_SLOT
            }
            for binding in member.bindings:
                if binding.provider is None or binding.provider in own:
                    continue
                word, is_call = words.get(binding.name, (None, False))
                # The address of a function that a program without PIE calls is its PLT entry's;
                # calls of others do not go there.
                handle = _handle(binding.provider) if is_call else None
                encoded = binding.name.encode()
                if binding.version is None:
                    expected = _SYMBOLS.dlsym(handle, encoded)
                else:
                    expected = _SYMBOLS.dlvsym(handle, encoded, binding.version.encode())
                if word is not None and expected is not None:
                    assert word == expected, binding
                    compared += 1
        assert compared > 20


def test_a_host_library_that_the_process_has_not_is_opened_for_good(
    script: Callable[..., str], build: Callable[..., Path]
) -> None:
    out = script(
        """
        import sys
        from spidl import live
        from spidl.live import process
        def has():
            return any("libresolv" in name for name in process.link_maps().values())
        print(has())
        with live.load(sys.argv[1]) as library:
            print(has(), [member.name for member in library.namespace.members])
        print(has())
        """,
        build("kinds.c", "-Wl,--no-as-needed", "-lresolv"),
    )
    assert out == "False\nTrue ['libkinds.so']\nTrue\n"
