"""What the live target asks of the C library and the kernel, in this process.

Only documented interfaces: dlfcn.h, link.h, mman(2).  Addresses and lengths are in bytes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from spidl.diagnostics import LinkError, Place
from spidl.link.actions import Protection
from spidl.link.memory import U8

RTLD_NOW, RTLD_NOLOAD, RTLD_DEEPBIND = 2, 4, 8
RTLD_GLOBAL, RTLD_NODELETE = 0x100, 0x1000
_RTLD_DL_LINKMAP = 2
_RTLD_DI_TLS_MODID, _RTLD_DI_TLS_DATA = 9, 10
_MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 2, 16, 32
_PyBUF_WRITE = 0x200
_NAME, _DYNAMIC, _NEXT, _PREVIOUS = 8, 16, 24, 32
"""Offsets of l_name, l_ld, l_next and l_prev in struct link_map (link.h)."""

_process = ctypes.CDLL(None, use_errno=True)
_plain = ctypes.CDLL(None)
_Word = ctypes.c_uint64


def _function(name: str, restype: type | None, *argtypes: type) -> ctypes._NamedFuncPointer:
    function = _process[name]
    function.restype = restype
    function.argtypes = argtypes
    return function


_mmap = _function(
    "mmap", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
    ctypes.c_int, ctypes.c_long,
)  # fmt: skip
_mprotect = _function("mprotect", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_dlopen = _function("dlopen", ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int)
_dlclose = _function("dlclose", ctypes.c_int, ctypes.c_void_p)
_dlsym = _function("dlsym", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)
_dlerror = _function("dlerror", ctypes.c_char_p)
_dlvsym = _function("dlvsym", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p)
_dladdr1 = _function(
    "dladdr1", ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int
)
_dlinfo = _function("dlinfo", ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_strdup = _function("strdup", ctypes.c_void_p, ctypes.c_char_p)
_free = _function("free", None, ctypes.c_void_p)
_pthread_self = _function("pthread_self", ctypes.c_uint64)
_view = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)
_Look = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_dl_iterate_phdr = ctypes.PYFUNCTYPE(ctypes.c_int, _Look, ctypes.c_void_p)(
    ("dl_iterate_phdr", ctypes.PyDLL(None))
)
_Constructor = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_Resolver = ctypes.CFUNCTYPE(ctypes.c_uint64)


def read_word(address: int) -> int:
    """The 8-byte word at an address."""
    return _Word.from_address(address).value


def write_word(address: int, value: int) -> None:
    """Store an aligned 8-byte word; other threads see the old or the new one."""
    _Word.from_address(address).value = value & (2**64 - 1)


def memory(address: int, size: int) -> U8:
    """The process's own bytes at an address, writable: drop it before the pages go away."""
    found: memoryview = _view(address, size, _PyBUF_WRITE)
    return np.frombuffer(found, np.uint8)


def map_file(address: int, length: int, protection: Protection, fd: int, offset: int) -> None:
    """Map pages of a file privately over whatever is at ``address`` (all page-aligned)."""
    _mapped(
        _mmap(address, length, int(protection), _MAP_PRIVATE | _MAP_FIXED, fd, offset), "map a file"
    )


def map_zeros(address: int, length: int, protection: Protection) -> None:
    """Map pages of zeros over whatever is at ``address`` (all page-aligned)."""
    flags = _MAP_PRIVATE | _MAP_FIXED | _MAP_ANONYMOUS
    _mapped(_mmap(address, length, int(protection), flags, -1, 0), "map memory")


def map_anywhere(length: int) -> int:
    """The address of new pages of zeros, readable and writable; nobody ever unmaps them."""
    flags = _MAP_PRIVATE | _MAP_ANONYMOUS
    found = _mmap(None, length, int(Protection.READ | Protection.WRITE), flags, -1, 0)
    _mapped(found, "map memory")
    return int(found)


def protect(address: int, length: int, protection: Protection) -> None:
    """Change the permission of pages."""
    _mapped(_mprotect(address, length, int(protection)), "protect memory")


def _mapped(result: int | None, what: str) -> None:
    if result in (-1, 2**64 - 1):
        number = ctypes.get_errno()
        full = number == errno.ENOMEM
        raise LinkError(
            "live/no-memory" if full else "live/mapping",
            f"cannot {what}: {os.strerror(number)}",
            help="unload other libraries" if full else "a sandbox of this process may forbid it",
        )


def open_object(path: bytes, flags: int = RTLD_NOW) -> int:
    """dlopen; gives the handle.  Raises OSError with dlerror's text."""
    handle = _dlopen(path, flags)
    if not handle:
        raise OSError((_dlerror() or b"dlopen failed").decode(errors="replace"))
    found: int = handle
    return found


def dlopen(path: bytes | None, flags: int) -> int:
    """dlopen as it is: 0 where it fails, and then dlerror has its text."""
    return _dlopen(path, flags) or 0


def dlclose(handle: int) -> int:
    """dlclose as it is: not 0 where it fails, and then dlerror has its text."""
    found: int = _dlclose(handle)
    return found


def dlsym(handle: int, name: bytes, version: bytes | None = None) -> int:
    """dlsym, or dlvsym, as it is: 0 where it fails, and then dlerror has its text."""
    if version is None:
        return _dlsym(handle, name) or 0
    return _dlvsym(handle, name, version) or 0


def dlinfo(handle: int, request: int, argument: int) -> int:
    """dlinfo as it is."""
    found: int = _dlinfo(handle, request, argument)
    return found


def object_at(address: int) -> int | None:
    """The object, by its link map, that an address belongs to (dladdr1)."""
    names, found = (ctypes.c_void_p * 4)(), ctypes.c_void_p()
    there = _dladdr1(address, names, ctypes.byref(found), _RTLD_DL_LINKMAP)
    return found.value if there else None


def keep_object(path: bytes) -> None:
    """Never unmap an object that glibc has under this name; nothing is opened."""
    handle = _dlopen(path, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE)
    if handle:
        _dlclose(handle)


def close_object(handle: int) -> None:
    """dlclose."""
    _dlclose(handle)


def symbol_in(handle: int | None, name: str) -> int | None:
    """dlsym; None where the symbol is undefined (or, as glibc has it, where it is 0)."""
    found: int | None = _dlsym(handle, name.encode(errors="surrogateescape"))
    return found


def tls_module(handle: int) -> int:
    """The TLS module id of an object, 0 for one without TLS (dlinfo)."""
    number = ctypes.c_size_t()
    _dlinfo(handle, _RTLD_DI_TLS_MODID, ctypes.byref(number))
    return number.value


def tls_block(handle: int) -> int | None:
    """The calling thread's TLS block of an object, None where it has none yet (dlinfo)."""
    block = ctypes.c_void_p()
    _dlinfo(handle, _RTLD_DI_TLS_DATA, ctypes.byref(block))
    return block.value


def thread_pointer() -> int:
    """The calling thread's %fs base: the address of its control block (psABI 3.4.2)."""
    found: int = _pthread_self()
    return found


@dataclass(frozen=True, slots=True)
class LinkMap:
    """An object that ld.so knows: struct link_map of link.h; its address is dlopen's handle."""

    address: int

    @property
    def bias(self) -> int:
        return read_word(self.address)

    @property
    def name(self) -> str:
        text = ctypes.string_at(read_word(self.address + _NAME))
        return text.decode(errors="surrogateescape")

    def show(self, name: str, dynamic: int | None) -> None:
        """Tell debuggers another file name and, unless it is None, dynamic section."""
        before = read_word(self.address + _NAME)
        copy = _strdup(name.encode(errors="surrogateescape"))
        write_word(self.address + _NAME, copy)
        if dynamic is not None:
            write_word(self.address + _DYNAMIC, dynamic)
        _free(before)


@cache
def _first_map() -> int:
    at: int = _process._handle
    while before := read_word(at + _PREVIOUS):
        at = before
    return at


def link_maps(among: Container[int] | None = None) -> dict[int, str]:
    """The addresses and names of the objects in the process's main list, the program first.

    With ``among``, those at these addresses only.
    """
    found: dict[int, str] = {}

    def look(*_: int | None) -> int:
        at = _first_map()
        while at:
            if among is None or at in among:
                found[at] = LinkMap(at).name
            at = read_word(at + _NEXT)
        return 1  # all was seen

    # Other threads may close libraries meanwhile: inside of this call glibc does not let them
    # change the list (elf/dl-iteratephdr.c), and with Python's lock held nobody here waits for us.
    _dl_iterate_phdr(_Look(look), None)
    return found


@cache
def _arguments() -> tuple[int, ctypes.Array[ctypes.c_char_p]]:
    words = [os.fsencode(word) for word in sys.orig_argv]
    return len(words), (ctypes.c_char_p * (len(words) + 1))(*words, None)


def call_constructors(addresses: Sequence[int]) -> None:
    """Call constructors in order with (argc, argv, envp), as glibc does (elf/dl-init.c)."""
    count, words = _arguments()
    argv, environ = ctypes.addressof(words), _environ()
    for address in addresses:
        _Constructor(address)(count, argv, environ.value)


@cache
def _environ() -> ctypes.c_void_p:
    return ctypes.c_void_p.in_dll(_process, "environ")


def function_at(address: int, use_errno: bool = False) -> Any:
    """A ctypes function of the C calling convention; ``use_errno`` as in ctypes.CDLL."""
    return (_process if use_errno else _plain)._FuncPtr(address)


def call_resolver(address: int) -> int:
    """What an IFUNC resolver returns (no arguments on x86-64)."""
    result: int = _Resolver(address)()
    return result


def address_of(name: str) -> int:
    """The address of a function of the C library."""
    found = symbol_in(None, name)
    if found is None:
        raise LinkError(
            "live/no-symbol", f"the process has no function `{name}`", place=Place(sys.executable),
            help="the live target needs the GNU C library",
        )  # fmt: skip
    return found
