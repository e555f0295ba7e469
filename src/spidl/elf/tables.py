"""The tables of an ELF64 little-endian file as numpy structures, fields named as in <elf.h>."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = npt.NDArray[np.uint8]
Table: TypeAlias = npt.NDArray[np.void]
"""A structured array of one of the types below."""

EHDR: Final = np.dtype(
    [
        ("e_ident", "u1", 16),
        ("e_type", "<u2"),
        ("e_machine", "<u2"),
        ("e_version", "<u4"),
        ("e_entry", "<u8"),
        ("e_phoff", "<u8"),
        ("e_shoff", "<u8"),
        ("e_flags", "<u4"),
        ("e_ehsize", "<u2"),
        ("e_phentsize", "<u2"),
        ("e_phnum", "<u2"),
        ("e_shentsize", "<u2"),
        ("e_shnum", "<u2"),
        ("e_shstrndx", "<u2"),
    ]
)
PHDR: Final = np.dtype(
    [
        ("p_type", "<u4"),
        ("p_flags", "<u4"),
        ("p_offset", "<u8"),
        ("p_vaddr", "<u8"),
        ("p_paddr", "<u8"),
        ("p_filesz", "<u8"),
        ("p_memsz", "<u8"),
        ("p_align", "<u8"),
    ]
)
DYN: Final = np.dtype([("d_tag", "<i8"), ("d_val", "<u8")])
SYM: Final = np.dtype(
    [
        ("st_name", "<u4"),
        ("st_info", "u1"),
        ("st_other", "u1"),
        ("st_shndx", "<u2"),
        ("st_value", "<u8"),
        ("st_size", "<u8"),
    ]
)
RELA: Final = np.dtype(
    # r_info's low word is the type and its high word the symbol (psABI 4.4).
    [("r_offset", "<u8"), ("r_type", "<u4"), ("r_sym", "<u4"), ("r_addend", "<i8")]
)
VERDEF: Final = np.dtype(
    [
        ("vd_version", "<u2"),
        ("vd_flags", "<u2"),
        ("vd_ndx", "<u2"),
        ("vd_cnt", "<u2"),
        ("vd_hash", "<u4"),
        ("vd_aux", "<u4"),
        ("vd_next", "<u4"),
    ]
)
VERDAUX: Final = np.dtype([("vda_name", "<u4"), ("vda_next", "<u4")])
VERNEED: Final = np.dtype(
    [
        ("vn_version", "<u2"),
        ("vn_cnt", "<u2"),
        ("vn_file", "<u4"),
        ("vn_aux", "<u4"),
        ("vn_next", "<u4"),
    ]
)
VERNAUX: Final = np.dtype(
    [
        ("vna_hash", "<u4"),
        ("vna_flags", "<u2"),
        ("vna_other", "<u2"),
        ("vna_name", "<u4"),
        ("vna_next", "<u4"),
    ]
)
HALF: Final[np.dtype[np.uint16]] = np.dtype("<u2")
WORD: Final[np.dtype[np.uint32]] = np.dtype("<u4")
XWORD: Final[np.dtype[np.uint64]] = np.dtype("<u8")


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same array, read-only."""
    array.flags.writeable = False
    return array
