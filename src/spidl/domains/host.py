"""Symbols of the process itself: what the embedding program may hand out."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache

from spidl.diagnostics import LinkError
from spidl.domains.symbols import Export, Kind, Symbol
from spidl.elf import DT, STT
from spidl.elf.constants import VERSYM_VERSION
from spidl.live import process

RUNTIME_NAMES = (
    "memcpy", "memmove", "memset", "memcmp", "strlen", "__stack_chk_fail", "__tls_get_addr",
)  # fmt: skip
"""What compilers call without being told to: block operations (gcc's manual, Standards), the stack
protector's end, and thread-local storage (psABI 3.5).  The weak symbols of start files (_ITM_...,
__cxa_finalize, __gmon_start__) are not among them: they stay 0."""

_RTLD_DL_SYMENT, _RTLD_DL_LINKMAP = 1, 2
L_LD = 16
"""Offset of the dynamic section's address in struct link_map (link.h)."""


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


_libc = ctypes.CDLL(None)
_dladdr1 = _libc.dladdr1
_dladdr1.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
_dlvsym = _libc.dlvsym
_dlvsym.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)
_dlvsym.restype = ctypes.c_void_p


def exports(names: Iterable[str]) -> dict[str, Export]:
    """What the process has of these names: the default versions (dlsym, RTLD_DEFAULT), and for a
    reference that asks for a version, this one (dlvsym).

    Raises `LinkError` ``domain/no-symbol``, ``domain/tls``.
    """
    return {name: _export(name) for name in names}


@cache
def _export(name: str) -> Export:
    """What one name means, for good: glibc keeps the library that dlsym found it in
    (elf/dl-lookup.c, add_dependency)."""
    address = process.symbol_in(None, name) if name and "\0" not in name else None
    if address is None:
        raise LinkError(
            "domain/no-symbol", f"the process has no symbol `{name}`",
            help="dlopen the library that has it (ctypes.CDLL with RTLD_GLOBAL) first",
        )  # fmt: skip
    default, plain = _look(name, address, None)

    @cache
    def exact(version: str) -> Symbol | None:
        found = _dlvsym(None, name.encode(errors="surrogateescape"), version.encode())
        if not found:
            return None
        return default if found == address else _look(name, found, version)[0]

    return Export(default, exact, plain)


def _look(name: str, address: int, version: str | None) -> tuple[Symbol, bool]:
    """What is at an address, and whether its definition has no version."""
    info, entry, at = _Info(), ctypes.POINTER(_Symbol)(), ctypes.c_void_p()
    if not _dladdr1(address, ctypes.byref(info), ctypes.byref(at), _RTLD_DL_LINKMAP):
        raise LinkError(
            "domain/tls", f"`{name}` is in no object of the process: it is thread-local",
            help="give away a function that returns its address: __errno_location for errno",
        )  # fmt: skip
    _dladdr1(address, ctypes.byref(info), ctypes.byref(entry), _RTLD_DL_SYMENT)
    if not entry or info.dli_saddr != address:  # an indirect function, of which dlsym chose one
        return Symbol(name, address, version=version), False
    plain = info.dli_sname == name.encode(errors="surrogateescape") and _is_plain(
        at.value or 0, ctypes.addressof(entry.contents)
    )
    if entry.contents.st_info & 15 == STT.OBJECT:
        size = int(entry.contents.st_size)
        return Symbol(name, address, Kind.DATA, size, version=version), plain
    return Symbol(name, address, version=version), plain


def _is_plain(link_map: int, entry: int) -> bool:
    """Whether a symbol table's entry, at a run-time address, has no version (LSB 10.7.2)."""
    bias, tags, at = process.LinkMap(link_map).bias, {}, process.read_word(link_map + L_LD)
    while tag := process.read_word(at):
        value = process.read_word(at + 8)
        # ld.so makes addresses absolute where it can write: not in the kernel's vDSO.
        tags[tag] = value if value >= bias else value + bias
        at += 16
    if DT.VERSYM not in tags:
        return True
    index = (entry - tags[DT.SYMTAB]) // ctypes.sizeof(_Symbol)
    return ctypes.c_uint16.from_address(tags[DT.VERSYM] + 2 * index).value & VERSYM_VERSION < 2
