"""Where ld.so opens libraries: found in this machine's, refused where the signs do not agree."""

from __future__ import annotations

import os

import numpy as np
import pytest

from spidl.diagnostics import Refusal
from spidl.elf import ElfFile, R, name_hash
from spidl.link.dso import Dso
from spidl.link.memory import Memory
from spidl.link.namespace import Namespace
from spidl.targets.exec.opening import Openers, find_openers

LINKER = os.path.realpath("/lib64/ld-linux-x86-64.so.2")
BIAS = 0x10_0000_0000


def loaded(content: bytes) -> tuple[Dso, Memory]:
    """The linker at an address, its relative relocations applied."""
    file = ElfFile.parse(content, LINKER)
    size = -(-max(load.vaddr + load.memsz for load in file.loads) // 4096) * 4096
    memory = np.zeros(size, np.uint8)
    for load in file.loads:
        memory[load.vaddr : load.vaddr + load.filesz] = file.data[
            load.offset : load.offset + load.filesz
        ]
    words = memory.view("<u8")
    words[file.relr // 8] += np.uint64(BIAS)
    for row in file.rela[file.rela["r_type"] == R.RELATIVE]:
        words[int(row["r_offset"]) // 8] = BIAS + int(row["r_addend"])
    dso = Dso(1, "ld.so", LINKER, file, Namespace("main"), None, "PT_INTERP", "", None, _bias=BIAS)
    return dso, Memory([(BIAS, memory)])


@pytest.fixture(scope="module")
def content() -> bytes:
    with open(LINKER, "rb") as file:
        return file.read()


def found(content: bytes) -> Openers:
    return find_openers(*loaded(content))


def test_the_word_is_in_the_table_and_leads_to_code(content: bytes) -> None:
    dso, memory = loaded(content)
    openers = find_openers(dso, memory)
    assert int(memory.read_words(np.array([openers.word], np.uint64))[0]) == openers.real
    (index,) = np.flatnonzero(dso.file.name_hashes == np.uint64(name_hash(b"_rtld_global_ro")))
    start = dso.symbol_address(int(index))
    assert start < openers.word < start + int(dso.file.symbols[index]["st_size"])
    assert dso.start < openers.real < dso.end


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"invalid mode for dlopen()", b"invalid mode for dlopen []"[:25]),
        (b"\0_rtld_global_ro\0", b"\0_rtld_global_RO\0"),
        (b"\0_dl_mcount\0", b"\0_dl_MCOUNT\0"),
    ],
    ids=["text", "table", "neighbour"],
)
def test_a_build_that_is_otherwise_is_refused(content: bytes, old: bytes, new: bytes) -> None:
    assert content.count(old) == 1
    with pytest.raises(Refusal) as caught:
        found(content.replace(old, new))
    assert caught.value.code == "exec/no-gate"
