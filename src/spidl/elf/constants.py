"""The numbers of ELF64 on x86-64, under their ABI names.

Sources: the gABI (System V ABI, chapters 4 and 5), the x86-64 psABI (sections 4.1, 4.4 and 5.2) and
the GNU extensions as binutils and glibc use them.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

PAGE: Final = 4096
"""The page size, in bytes."""
ADDRESS_LIMIT: Final = 1 << 47
"""The end of the user's address space with four-level page tables."""

ELFMAG: Final = b"\x7fELF"
ELFCLASS32: Final = 1
ELFCLASS64: Final = 2
ELFDATA2LSB: Final = 1
EV_CURRENT: Final = 1
ELFOSABI_NONE: Final = 0
ELFOSABI_GNU: Final = 3
PN_XNUM: Final = 0xFFFF

EM_386: Final = 3
EM_X86_64: Final = 62


class ET(IntEnum):
    """e_type."""

    NONE = 0
    REL = 1
    EXEC = 2
    DYN = 3
    CORE = 4


class PT(IntEnum):
    """p_type."""

    NULL = 0
    LOAD = 1
    DYNAMIC = 2
    INTERP = 3
    NOTE = 4
    SHLIB = 5
    PHDR = 6
    TLS = 7
    GNU_EH_FRAME = 0x6474E550
    GNU_STACK = 0x6474E551
    GNU_RELRO = 0x6474E552
    GNU_PROPERTY = 0x6474E553


class PF(IntFlag):
    """p_flags."""

    X = 1
    W = 2
    R = 4


class DT(IntEnum):
    """d_tag."""

    NULL = 0
    NEEDED = 1
    PLTRELSZ = 2
    PLTGOT = 3
    HASH = 4
    STRTAB = 5
    SYMTAB = 6
    RELA = 7
    RELASZ = 8
    RELAENT = 9
    STRSZ = 10
    SYMENT = 11
    INIT = 12
    FINI = 13
    SONAME = 14
    RPATH = 15
    SYMBOLIC = 16
    REL = 17
    RELSZ = 18
    RELENT = 19
    PLTREL = 20
    DEBUG = 21
    TEXTREL = 22
    JMPREL = 23
    BIND_NOW = 24
    INIT_ARRAY = 25
    FINI_ARRAY = 26
    INIT_ARRAYSZ = 27
    FINI_ARRAYSZ = 28
    RUNPATH = 29
    FLAGS = 30
    PREINIT_ARRAY = 32
    PREINIT_ARRAYSZ = 33
    RELRSZ = 35
    RELR = 36
    RELRENT = 37
    GNU_HASH = 0x6FFFFEF5
    TLSDESC_PLT = 0x6FFFFEF6
    TLSDESC_GOT = 0x6FFFFEF7
    DEPAUDIT = 0x6FFFFEFB
    AUDIT = 0x6FFFFEFC
    VERSYM = 0x6FFFFFF0
    RELACOUNT = 0x6FFFFFF9
    RELCOUNT = 0x6FFFFFFA
    FLAGS_1 = 0x6FFFFFFB
    VERDEF = 0x6FFFFFFC
    VERDEFNUM = 0x6FFFFFFD
    VERNEED = 0x6FFFFFFE
    VERNEEDNUM = 0x6FFFFFFF
    AUXILIARY = 0x7FFFFFFD
    FILTER = 0x7FFFFFFF


class DF(IntFlag):
    """DT_FLAGS."""

    ORIGIN = 0x1
    SYMBOLIC = 0x2
    TEXTREL = 0x4
    BIND_NOW = 0x8
    STATIC_TLS = 0x10


class DF_1(IntFlag):
    """DT_FLAGS_1."""

    NOW = 0x1
    GLOBAL = 0x2
    GROUP = 0x4
    NODELETE = 0x8
    LOADFLTR = 0x10
    INITFIRST = 0x20
    NOOPEN = 0x40
    ORIGIN = 0x80
    DIRECT = 0x100
    INTERPOSE = 0x400
    NODEFLIB = 0x800
    NODUMP = 0x1000
    PIE = 0x8000000


class STB(IntEnum):
    """Symbol binding: st_info >> 4."""

    LOCAL = 0
    GLOBAL = 1
    WEAK = 2
    GNU_UNIQUE = 10


class STT(IntEnum):
    """Symbol type: st_info & 0xf."""

    NOTYPE = 0
    OBJECT = 1
    FUNC = 2
    SECTION = 3
    FILE = 4
    COMMON = 5
    TLS = 6
    GNU_IFUNC = 10


class STV(IntEnum):
    """Symbol visibility: st_other & 3."""

    DEFAULT = 0
    INTERNAL = 1
    HIDDEN = 2
    PROTECTED = 3


class SHN(IntEnum):
    """Special values of st_shndx."""

    UNDEF = 0
    ABS = 0xFFF1
    COMMON = 0xFFF2


VER_FLG_BASE: Final = 1
VER_FLG_WEAK: Final = 2
VER_NDX_LOCAL: Final = 0
VER_NDX_GLOBAL: Final = 1
VERSYM_HIDDEN: Final = 0x8000
VERSYM_VERSION: Final = 0x7FFF


class R(IntEnum):
    """Relocation types that a linker meets at run time: R_X86_64_* (psABI table 4.9)."""

    NONE = 0
    R64 = 1
    PC32 = 2
    GOT32 = 3
    PLT32 = 4
    COPY = 5
    GLOB_DAT = 6
    JUMP_SLOT = 7
    RELATIVE = 8
    GOTPCREL = 9
    R32 = 10
    R32S = 11
    R16 = 12
    PC16 = 13
    R8 = 14
    PC8 = 15
    DTPMOD64 = 16
    DTPOFF64 = 17
    TPOFF64 = 18
    TLSGD = 19
    TLSLD = 20
    DTPOFF32 = 21
    GOTTPOFF = 22
    TPOFF32 = 23
    PC64 = 24
    GOTOFF64 = 25
    GOTPC32 = 26
    SIZE32 = 32
    SIZE64 = 33
    GOTPC32_TLSDESC = 34
    TLSDESC_CALL = 35
    TLSDESC = 36
    IRELATIVE = 37
    RELATIVE64 = 38

    @property
    def abi_name(self) -> str:
        """``R_X86_64_64`` for R64, and so on."""
        return "R_X86_64_" + (self.name[1:] if self.name[1:].rstrip("S").isdigit() else self.name)


def relocation_name(number: int) -> str:
    """The ABI's name of a relocation type, or its number where the ABI has none."""
    try:
        return R(number).abi_name
    except ValueError:
        return f"relocation type {number}"


NT_GNU_ABI_TAG: Final = 1
NT_GNU_BUILD_ID: Final = 3
NT_GNU_PROPERTY_TYPE_0: Final = 5
GNU_PROPERTY_X86_FEATURE_1_AND: Final = 0xC0000002
GNU_PROPERTY_X86_ISA_1_NEEDED: Final = 0xC0008002
GNU_PROPERTY_X86_ISA_1_USED: Final = 0xC0010002
