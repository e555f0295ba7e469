"""CPUID as this machine answers it: what ld.so and IFUNC resolvers have looked at."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache

from spidl.link.actions import CheckCpuid

# push rbx; mov eax,edi; mov ecx,esi; mov r8,rdx; cpuid; mov [r8],eax .. [r8+12],edx; pop rbx; ret
_CODE = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")
_ALL = 0xFFFFFFFF
_ACCESS = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC


# rdtsc; shl rdx,32; or rax,rdx; ret
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")


def time_stamp() -> int:
    """The processor's time-stamp counter."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=_ACCESS) as page:
        page.write(_RDTSC)
        holder = ctypes.c_char.from_buffer(page)
        counter: int = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(holder))()
        del holder
    return counter


@cache
def cpuid(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
    """(eax, ebx, ecx, edx)."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=_ACCESS) as page:
        page.write(_CODE)
        buffer = (ctypes.c_uint32 * 4)()
        holder = ctypes.c_char.from_buffer(page)
        kind = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)
        kind(ctypes.addressof(holder))(leaf, subleaf, ctypes.addressof(buffer))
        del holder
    a, b, c, d = buffer
    return a, b, c, d


def cpu_checks() -> list[CheckCpuid]:
    """The same processor model and features as at link time.

    Leaf 0xD tells which register states the kernel has switched on (XCR0), AVX's among them.
    Leaf 1 without the APIC id (bits 24-31 of ebx), which differs between the cores of a machine.
    """
    return [
        CheckCpuid(1, 0, (_ALL, 0x00FFFFFF, _ALL, _ALL), _masked(cpuid(1, 0))),
        CheckCpuid(7, 0, (_ALL, _ALL, _ALL, _ALL), cpuid(7, 0)),
        CheckCpuid(0xD, 0, (_ALL, _ALL, _ALL, _ALL), cpuid(0xD, 0)),
    ]


def _masked(registers: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    a, b, c, d = registers
    return a, b & 0x00FFFFFF, c, d
