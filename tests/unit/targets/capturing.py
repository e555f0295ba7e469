"""Capture plans for programs of this machine, without the link that normally makes them."""

from __future__ import annotations

import glob
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spidl.elf import ET, ElfFile
from spidl.targets.exec.capture import CapturePlan, Placement, Snapshot

PAGE = 4096
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/", "LANG": "C"}
HELLO = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'
CALL_DL_START = b"\x48\x89\xe7\xe8"
"""mov %rsp, %rdi; call: glibc's entry, sysdeps/x86_64/dl-machine.h, RTLD_START."""


def compile_c(target: Path, source: str, *options: str, compiler: str = "gcc") -> str:
    """Compile a C or (with -nostdlib) assembly source; returns the path."""
    file = target.with_suffix(".c")
    file.write_text(source)
    subprocess.run([compiler, "-o", target, file, *options], check=True)
    return str(target)


def assembly(body: str) -> str:
    """A program whose instruction at entry + 64 is its end."""
    return f"""__asm__(".globl _start\\n.balign 64\\n_start:\\n" {body!s}
    ".balign 64\\nmov $60, %eax\\nxor %edi, %edi\\nsyscall\\n");"""


def static(target: Path, body: str) -> str:
    quoted = " ".join(f'"{line.strip()}\\n"' for line in body.strip().splitlines())
    return compile_c(target, assembly(quoted), "-nostdlib", "-static", "-no-pie")


def needed(program: str) -> list[str]:
    """The paths of a program's libraries, as its linker finds them."""
    output = subprocess.run(
        ["/lib64/ld-linux-x86-64.so.2", "--list", program], capture_output=True, text=True
    ).stdout
    paths = [word for line in output.splitlines() for word in line.split() if word[0] == "/"]
    return [path for path in paths if not Path(path).name.startswith("ld-linux")]


def plan(
    program: str,
    *arguments: str,
    libraries: Sequence[str] | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
    base: int = 0x70_0000_0000,
    stop: int | None = None,
    stack_limit: int | None = None,
    deny_brk: bool = False,
    timeout: float = 10.0,
) -> CapturePlan:
    """All objects one behind the other from ``base``.

    ``stop`` is an offset from the program's entry; without it, it is the return of _dl_start.
    """
    free = base

    def take(path: str) -> tuple[ElfFile, Placement]:
        nonlocal free
        file = ElfFile.open(path)
        low, high = file.span
        align = max(PAGE, *(load.align for load in file.loads))
        start = low
        if file.type == ET.DYN:
            start = -(-free // align) * align
            free = start + high - low
        stat = os.stat(path)
        bias = start - low
        length = high - low
        return file, Placement(
            path, stat.st_dev, stat.st_ino, bias, start, length, align, file.data
        )

    file, main = take(program)
    at = main.bias + file.entry + (stop or 0)
    interpreter = None
    if file.interp is not None:
        linker, interpreter = take(os.path.realpath(file.interp))
        if stop is None:
            assert linker.read(linker.entry, 4).tobytes() == CALL_DL_START
            at = interpreter.bias + linker.entry + 8
    paths = needed(program) if libraries is None else libraries
    placed = tuple(take(path)[1] for path in paths)
    assert file.phdr_vaddr is not None
    return CapturePlan(
        program=program,
        arguments=(program, *arguments),
        environment=environment,
        main=main,
        interpreter=interpreter,
        libraries=placed,
        stop=at,
        arena=(free + (1 << 24)) & -PAGE,
        entry=main.bias + file.entry,
        phdr=main.bias + file.phdr_vaddr,
        base=interpreter.bias if interpreter is not None else 0,
        stack_limit=stack_limit,
        deny_brk=deny_brk,
        timeout=timeout,
    )


def word(snapshot: Snapshot, address: int) -> int:
    """Eight bytes of the captured private memory."""
    for region in snapshot.regions:
        if region.address <= address < region.address + len(region.content):
            at = address - region.address
            return int.from_bytes(region.content[at : at + 8].tobytes(), "little")
    raise AssertionError(f"{address:#x} is in no region")


def words(snapshot: Snapshot, placement: Placement) -> npt.NDArray[np.uint64]:
    """All words of an object's private memory."""
    parts = [
        region.content.view(np.uint64)
        for region in snapshot.regions
        if placement.start <= region.address < placement.end
    ]
    return np.concatenate(parts)


def children() -> set[str]:
    """Processes of this one, those that have ended unnoticed included."""
    found: set[str] = set()
    for path in glob.glob("/proc/self/task/*/children"):
        found |= set(Path(path).read_text().split())
    return found
