"""Numbers of system calls in programs that Go's linker wrote: found through its table of
functions."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from spidl.api import ElfFile, number_of
from spidl.modules.seccomp.golang import numbers

ASSEMBLY = """
.text
begin:
main.main:                      # the number in RAX, where Go has the first argument
    mov $165, %eax
    call syscall.Syscall6
    ret
main.stack:                     # and on the stack, as assembly files have it
    movq $272, (%rsp)
    call syscall.Syscall6
    ret
main.zero:
    xor %eax, %eax
    .byte 0xe9                  # jmp, as long as Go's linker writes it
    .long syscall.Syscall6 - . - 4
main.other:                     # nobody is told this one
    mov $161, %eax
    ret
main.called:                    # a call of another function
    mov $162, %eax
    call main.other
    ret
syscall.Syscall6:
    syscall
    ret
end:
.section .rodata
.globl _start
table:
    .byte {magic:#x}, 0xff, 0xff, 0xff, 0, 0, 1, 8
    .quad 6, 0, {start} names - table, 0, 0, 0, functions - table, 0
functions:
    {word} main.main{minus}
    {word} f0 - functions
    {word} main.stack{minus}
    {word} f1 - functions
    {word} main.zero{minus}
    {word} f2 - functions
    {word} main.other{minus}
    {word} f3 - functions
    {word} main.called{minus}
    {word} f4 - functions
    {word} syscall.Syscall6{minus}
    {word} f5 - functions
    {word} end{minus}
f0: {word} 0
    .long n0 - names
f1: {word} 0
    .long n1 - names
f2: {word} 0
    .long n2 - names
f3: {word} 0
    .long n3 - names
f4: {word} 0
    .long n4 - names
f5: {word} 0
    .long n5 - names
names:
n0: .asciz "main.main"
n1: .asciz "main.stack"
n2: .asciz "main.zero"
n3: .asciz "main.other"
n4: .asciz "main.called"
n5: .asciz "{taker}"
.zero 64
.data
.ascii "\\377 {made}"
"""
TOLD = [0, 165, 272]


def made(
    folder: Path,
    *flags: str,
    magic: int = 0xF1,
    taker: str = "syscall.Syscall6",
    made: str = "Go buildinf:",
) -> ElfFile:
    """A file with a table of Go 1.20 (f1), 1.18 (f0) or 1.16 (fa), which has addresses."""
    has_offsets = magic != 0xFA
    source, output = folder / "go.s", folder / "go"
    source.write_text(
        ASSEMBLY.format(
            magic=magic, taker=taker, made=made, start="begin," if has_offsets else "",
            minus=" - begin" if has_offsets else "", word=".long" if has_offsets else ".quad",
        )
    )  # fmt: skip
    command = ["gcc", "-nostdlib", "-Wl,-e,0", "-o", str(output), str(source), *flags]
    subprocess.run(command, check=True)
    subprocess.run(["strip", str(output)], check=True)
    return ElfFile.open(str(output))


@pytest.mark.parametrize("magic", [0xF1, 0xF0, 0xFA])
def test_constants_of_who_calls(tmp_path: Path, magic: int) -> None:
    assert numbers(made(tmp_path, "-no-pie", magic=magic))["number"].tolist() == TOLD
    assert {number_of("mount"), number_of("unshare")} <= set(TOLD)


def test_where_the_text_begins_is_relocated(tmp_path: Path) -> None:
    file = made(tmp_path, "-pie", "-Wl,-z,notext")
    assert len(file.rela)
    assert numbers(file)["number"].tolist() == TOLD


def test_names_of_other_packages_take_no_numbers(tmp_path: Path) -> None:
    assert not len(numbers(made(tmp_path, "-no-pie", taker="main.Syscall6"))["number"])
    unix = made(tmp_path, "-no-pie", taker="golang.org/x/sys/unix.RawSyscall")
    assert numbers(unix)["number"].tolist() == TOLD


def test_a_table_in_a_program_that_is_not_go_s(tmp_path: Path) -> None:
    assert not len(numbers(made(tmp_path, "-no-pie", made="No buildinf:"))["number"])


@pytest.mark.parametrize("at", range(8, 80, 8))
def test_tables_that_are_none(tmp_path: Path, at: int) -> None:
    """Words of the header that lead nowhere."""
    made(tmp_path, "-no-pie")
    content = bytearray((tmp_path / "go").read_bytes())
    table = content.index(b"\xf1\xff\xff\xff\0\0\1\x08")
    content[table + at : table + at + 8] = b"\xff\xff\xff\x7f\xff\xff\xff\xff"
    found = numbers(ElfFile.parse(bytes(content), "go"))["number"].tolist()
    assert found in ([], TOLD)
