"""Private memory is read without touching what the program has not touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from capturing import compile_c, plan

from spidl.elf import ElfFile
from spidl.link.memory import U8, Memory, is_zeros
from spidl.targets.exec.capture import Region, Snapshot, capture

BIG = """
char nothing[1L << 30];
char something[3 << 20] __attribute__((aligned(4096))) = {1, 2, 3};
char *pointer = &something[5];
static char sparse[3 << 20] __attribute__((aligned(4096))) = {4};
char *elsewhere = sparse;
int main(void) { return nothing[5] + something[7] + sparse[9]; }
"""


def region_at(snapshot: Snapshot, address: int) -> Region:
    return next(r for r in snapshot.regions if r.address <= address < r.end)


def content(snapshot: Snapshot, address: int, size: int) -> U8:
    return Memory([(r.address, r.content) for r in snapshot.regions]).read_bytes(address, size)


def address_of(snapshot: Snapshot, file: ElfFile, name: str) -> int:
    index = next(i for i in range(len(file.symbols)) if file.symbol_name(i) == name)
    return snapshot.plan.main.bias + int(file.symbols[index]["st_value"])


def test_untouched_pages(tmp_path: Path) -> None:
    program = compile_c(tmp_path / "big", BIG, "-rdynamic")
    file = ElfFile.open(program)
    snapshot = capture(plan(program))

    nothing = address_of(snapshot, file, "nothing")
    assert is_zeros(region_at(snapshot, nothing + (1 << 29)).content)
    assert len(snapshot.own) < 1 << 20

    # The file's content where nothing was written, ld.so's word where something was.
    something = address_of(snapshot, file, "something")
    view = region_at(snapshot, something + (1 << 20))
    assert not view.content.flags.writeable
    expected = np.zeros(3 << 20, np.uint8)
    expected[:3] = 1, 2, 3
    assert np.array_equal(content(snapshot, something, 3 << 20), expected)
    pointer = address_of(snapshot, file, "pointer")
    holder = region_at(snapshot, pointer)
    word = holder.content[pointer - holder.address :][:8].tobytes()
    assert int.from_bytes(word, "little") == something + 5


def test_file_whose_content_the_plan_does_not_have(tmp_path: Path) -> None:
    """Untouched pages then come from the process itself."""
    program = compile_c(tmp_path / "big", BIG, "-rdynamic")
    file = ElfFile.open(program)
    made = plan(program)
    moved = replace(made, main=replace(made.main, content=None))
    unread, whole = capture(made), capture(moved)
    something = address_of(unread, file, "something")
    assert len(whole.own) > 6 << 20 > len(unread.own)
    both = [content(snapshot, something, 6 << 20) for snapshot in (unread, whole)]
    assert np.array_equal(*both)
