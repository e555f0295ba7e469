"""What the ELF tests share: files to read, and a way to read everything in one."""

from __future__ import annotations

import numpy as np

from spidl.elf import DT, STB, STT, ElfFile, R
from spidl.testing.elves import Define, Relocate, Undefined, build_dso

ANSWER = bytes.fromhex("b82a000000c3")  # mov eax, 42; ret
ONE = bytes.fromhex("b801000000c3")
TWO = bytes.fromhex("b802000000c3")
LIBC = "/lib/x86_64-linux-gnu/libc.so.6"

ATTRIBUTES = [
    name
    for name in dir(ElfFile)
    if not name.startswith("_")
    and name not in ("parse", "open", "read", "file_offset", "string", "symbol_name", "tag")
]


def touch(elf: ElfFile) -> dict[str, object]:
    """Every attribute of a parsed file, and every symbol's name."""
    values = {name: getattr(elf, name) for name in ATTRIBUTES}
    values["names"] = [elf.symbol_name(index) for index in range(len(elf.symbols))]
    return values


def rich_dso(hash_style: str = "gnu") -> bytes:
    """An object with something in every table."""
    return build_dso(
        "librich.so.1",
        {
            "answer": ANSWER,
            "f@V1": ONE,
            "f@@V2": TWO,
            "set": Define(bytes.fromhex("c70500000000" + "63000000" + "c3")),
            "choose": Define(bytes.fromhex("488d0500000000c3"), STT.GNU_IFUNC),
            "variable": Define(np.uint64(5).tobytes(), STT.OBJECT),
            "pointers": Define(bytes(24), STT.OBJECT),
            "per_thread": Define(np.uint64(7).tobytes(), STT.TLS),
        },
        needed=["libc.so.6"],
        absolute={"absolute": 0x1234},
        undefined=[
            Undefined("puts", "GLIBC_2.2.5", "libc.so.6", type=STT.FUNC),
            Undefined("nowhere", binding=STB.WEAK),
        ],
        relocations=[
            Relocate("set", R.PC32, target="variable", offset=2, addend=-8),
            Relocate("choose", R.PC32, target="answer", offset=3, addend=-4),
            Relocate("pointers", R.R64, symbol="puts"),
            Relocate("pointers", R.JUMP_SLOT, symbol="puts", offset=16, plt=True),
        ],
        relr=[("pointers", 8, "answer")],
        init=["set"],
        fini=["answer"],
        tags=[(DT.RUNPATH, "$ORIGIN"), (DT.FLAGS, 8)],
        hash_style=hash_style,  # type: ignore[arg-type]
    )
