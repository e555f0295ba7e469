"""Symbols of the process itself: what the embedding program may hand out."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache

from spidl.diagnostics import LinkError
from spidl.domains.symbols import Kind, Symbol
from spidl.elf import STT
from spidl.live import process

RUNTIME_NAMES = (
    "memcpy", "memmove", "memset", "memcmp", "strlen", "__stack_chk_fail", "__tls_get_addr",
)  # fmt: skip
"""What compilers call without being told to: block operations (gcc's manual, Standards), the stack
protector's end, and thread-local storage (psABI 3.5).  The weak symbols of start files (_ITM_...,
__cxa_finalize, __gmon_start__) are not among them: they stay 0."""

_RTLD_DL_SYMENT = 1


class _Info(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = (
        ("dli_fname", ctypes.c_char_p), ("dli_fbase", ctypes.c_void_p),
        ("dli_sname", ctypes.c_char_p), ("dli_saddr", ctypes.c_void_p),
    )  # fmt: skip


class _Symbol(ctypes.Structure):
    """Elf64_Sym of elf.h."""

    _fields_ = (
        ("st_name", ctypes.c_uint32), ("st_info", ctypes.c_uint8), ("st_other", ctypes.c_uint8),
        ("st_shndx", ctypes.c_uint16), ("st_value", ctypes.c_uint64), ("st_size", ctypes.c_uint64),
    )  # fmt: skip


@cache
def _function(name: str) -> Symbol:
    address = process.symbol_in(None, name) if name and "\0" not in name else None
    if address is None:
        raise LinkError(
            "domain/no-symbol", f"the process has no symbol `{name}`",
            help="dlopen the library that has it (ctypes.CDLL with RTLD_GLOBAL) first",
        )  # fmt: skip
    info, entry = _Info(), ctypes.POINTER(_Symbol)()
    ask = ctypes.CDLL(None).dladdr1
    ask.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    found = ask(address, ctypes.byref(info), ctypes.byref(entry), _RTLD_DL_SYMENT)
    exact = found and entry and info.dli_saddr == address
    if exact and entry.contents.st_info & 15 == STT.OBJECT:
        return Symbol(name, address, Kind.DATA, int(entry.contents.st_size))
    return Symbol(name, address)


def symbols(names: Iterable[str]) -> dict[str, Symbol]:
    """The process's symbols of these names, default versions (dlsym, RTLD_DEFAULT).

    Raises `LinkError` ``domain/no-symbol``.
    """
    return {name: _function(name) for name in names}
