"""The process's symbols, read from its files, against dlsym and dlvsym."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl import live

LIBRARIES = ("libcrypto.so.3", "libsqlite3.so.0", "libstdc++.so.6", "libpq.so.5")
_SYMBOLS = ctypes.CDLL(None)
_SYMBOLS.dlsym.restype = _SYMBOLS.dlvsym.restype = ctypes.c_void_p
_SYMBOLS.dlsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
_SYMBOLS.dlvsym.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]


@pytest.mark.parametrize("name", LIBRARIES)
def test_each_binding_is_what_dlsym_gives(name: str) -> None:
    """IFUNCs too: the word that was written is what glibc's own resolving gives."""
    with live.load(name) as library:
        own = {member.path for member in library.namespace.members}
        compared = 0
        for member in library.namespace.members:
            words = {
                member.dso.file.symbol_name(int(row["r_sym"])): ctypes.c_uint64.from_address(
                    member.bias + int(row["r_offset"])
                ).value
                for table in (member.dso.file.rela, member.dso.file.jmprel)
                for row in table
                if row["r_type"] in (6, 7) and row["r_sym"]  # GLOB_DAT, JUMP_SLOT
            }
            for binding in member.bindings:
                if binding.provider is None or binding.provider in own:
                    continue
                encoded = binding.name.encode()
                if binding.version is None:
                    expected = _SYMBOLS.dlsym(None, encoded)
                else:
                    expected = _SYMBOLS.dlvsym(None, encoded, binding.version.encode())
                if binding.name in words and expected is not None:
                    assert words[binding.name] == expected, binding
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
            return any("libresolv" in at.name for at in process.link_maps())
        print(has())
        with live.load(sys.argv[1]) as library:
            print(has(), [member.name for member in library.namespace.members])
        print(has())
        """,
        build("kinds.c", "-Wl,--no-as-needed", "-lresolv"),
    )
    assert out == "False\nTrue ['libkinds.so']\nTrue\n"
