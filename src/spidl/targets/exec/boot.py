"""The boot code as the image writer uses it: its bytes, its entry, its shims."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cache
from struct import Struct, error

from spidl.diagnostics import LinkError, Place
from spidl.targets.exec.layout import PAGE

BOOT_ELF = os.path.join(os.path.dirname(__file__), "boot.elf")

_EHDR = Struct("<16sHHIQQQIHHHHHH")
_PHDR = Struct("<IIQQQQQQ")
_SHDR = Struct("<IIQQQQIIQQ")
_SYM = Struct("<IBBHQQ")
_PT_LOAD, _SHT_SYMTAB = 1, 2
_SHIM = "shim_"


@dataclass(frozen=True, slots=True)
class BootCode:
    """Position-independent code with its constants: one read-and-execute mapping.

    All offsets are in bytes from the start of ``code``, which goes to a page-aligned address.
    """

    code: bytes
    """Whole pages."""
    entry: int
    """The offset of `_start`, an image's e_entry."""
    table: int
    """The offset at which boot expects the read-only action table: the end of ``code``."""
    late: int
    """The offset of `spidl_late`, which installs what waits for the program's entry."""
    open: int
    """The offset of `spidl_open`, which stands in for ld.so's _dl_open."""
    shims: dict[str, int] = field(default_factory=dict)
    """C function name to the offset of its shim, entered with r10 = the address of the real
    function and r11 = that of the program's path (see boot/shims.S)."""


def _text(strings: bytes, offset: int) -> str:
    return strings[offset : strings.index(b"\0", offset)].decode("ascii")


def symbols_of(data: bytes) -> dict[str, int]:
    """The values of the symbols in .symtab of an ELF file, by name."""
    ehdr = _EHDR.unpack_from(data)
    sections = [_SHDR.unpack_from(data, ehdr[6] + i * _SHDR.size) for i in range(ehdr[12])]
    symtab = next(section for section in sections if section[1] == _SHT_SYMTAB)
    strtab = sections[symtab[6]]
    strings = data[strtab[4] : strtab[4] + strtab[5]]
    entries = _SYM.iter_unpack(data[symtab[4] : symtab[4] + symtab[5]])
    return {_text(strings, name): value for name, _, _, _, value, _ in entries if name}


def parse_boot(data: bytes, file: str) -> BootCode:
    """The boot code in the ELF file ``data``; ``file`` is its name for messages.

    Raises `LinkError` ``exec/bad-boot`` where this is not an output of boot/boot.ld.
    """
    try:
        ehdr = _EHDR.unpack_from(data)
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("no ELF file")
        phdrs = [_PHDR.unpack_from(data, ehdr[5] + i * _PHDR.size) for i in range(ehdr[10])]
        loads = [phdr for phdr in phdrs if phdr[0] == _PT_LOAD]
        symbols = symbols_of(data)
        if len(loads) != 1 or loads[0][3] != 0 or loads[0][5] != loads[0][6]:
            raise ValueError("not one segment at 0")
        offset, size, table = loads[0][2], loads[0][5], symbols["spidl_table"]
        if table % PAGE or not 0 < size <= table or len(data) < offset + size:
            raise ValueError("segment beyond spidl_table")
    except (error, ValueError, IndexError, KeyError, StopIteration) as why:
        raise LinkError(
            "exec/bad-boot",
            "this is not Spidl's boot code",
            place=Place(file),
            notes=(str(why),),
            help="build it again: make -C boot, or reinstall spidl",
        ) from None
    return BootCode(
        code=data[offset : offset + size].ljust(table, b"\0"),
        entry=ehdr[4],
        table=table,
        late=symbols["spidl_late"],
        open=symbols["spidl_open"],
        shims={
            name.removeprefix(_SHIM): value
            for name, value in symbols.items()
            if name.startswith(_SHIM)
        },
    )


@cache
def load_boot(path: str | os.PathLike[str] = BOOT_ELF) -> BootCode:
    """The boot code that was built into the package.

    Raises `LinkError` ``exec/no-boot`` where it was not built, ``exec/bad-boot`` where the file
    is not the boot code.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as why:
        raise LinkError(
            "exec/no-boot",
            "the boot code of images is missing",
            place=Place(str(path)),
            notes=(why.strerror or str(why),),
            help="install spidl with pip, or run `make -C boot` in a source tree; both need gcc",
        ) from None
    return parse_boot(data, str(path))
