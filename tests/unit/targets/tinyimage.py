"""Images made by hand: boot, a table, and a few instructions as the program."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spidl.link.actions import Action, FileIdentity, Jump, TableFlag
from spidl.targets.exec.boot import BootCode
from spidl.targets.exec.table import encode

BOOT = 0x1000_0000
PROGRAM = 0x2000_0000
DATA = PROGRAM + 0x1000
"""A writable page of the program, zeros at start."""
FREE = 0x3000_0000
"""A span of 16 pages where nothing is mapped."""
SPANS = ((PROGRAM, PROGRAM + 0x3000), (FREE, FREE + 0x10000))
PLAIN = b"/bin/echo"

EXIT_7 = """
    mov $1, %eax
    mov $1, %edi
    lea ok(%rip), %rsi
    mov $2, %edx
    syscall
    mov $231, %eax
    mov $7, %edi
    syscall
ok: .ascii "ok"
"""


def write_data(length: int, address: int = DATA) -> str:
    """Code that writes bytes of memory to stdout and exits with status 7."""
    return f"""
    mov $1, %eax
    mov $1, %edi
    mov ${address}, %esi
    mov ${length}, %edx
    syscall
    mov $231, %eax
    mov $7, %edi
    syscall
"""


def assemble(code: str, folder: Path) -> bytes:
    """Machine code at PROGRAM."""
    source, raw = folder / "program.s", folder / "program.bin"
    source.write_text(f'.globl _start\n_start:\n{code}\n.section .note.GNU-stack,"",@progbits\n')
    layout = [f"-Wl,-Ttext={PROGRAM:#x}", "-Wl,--oformat=binary", "-Wl,--build-id=none"]
    command = [os.environ.get("CC", "cc"), "-nostdlib", "-static", *layout]
    subprocess.run([*command, "-o", raw, source], check=True)
    return raw.read_bytes()


def identity(path: Path | bytes) -> FileIdentity:
    now = os.stat(path)
    return FileIdentity(
        now.st_dev,
        now.st_ino,
        now.st_size,
        divmod(now.st_mtime_ns, 10**9),
        divmod(now.st_ctime_ns, 10**9),
    )


def write_elf(path: Path, entry: int, loads: Sequence[tuple[int, bytes, int]]) -> None:
    """A static ET_EXEC; ``loads`` are (address, content, p_flags)."""
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, 62, 1, entry, 64, 0, 0, 64, 56, len(loads) + 1, 0, 0, 0,
    )  # fmt: skip
    body, offset = b"", 0x1000
    for address, content, flags in loads:
        size = len(content)
        head += struct.pack("<IIQQQQQQ", 1, flags, offset, address, address, size, size, 0x1000)
        body += content.ljust(-(-size // 0x1000) * 0x1000, b"\0")
        offset = 0x1000 + len(body)
    head += struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)
    path.write_bytes(head.ljust(0x1000, b"\0") + body)
    path.chmod(0o755)


@dataclass
class Tiny:
    """Builds and runs images in one folder."""

    boot: BootCode
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def write(self, table: bytes, code: str = EXIT_7) -> Path:
        path = self.folder / "image"
        program = assemble(code, self.folder).ljust(0x3000, b"\0")
        write_elf(
            path,
            BOOT + self.boot.entry,
            [
                (BOOT, self.boot.code, 5),
                (BOOT + self.boot.table, table, 4),
                (PROGRAM, program, 7),
            ],
        )
        return path

    def image(
        self,
        *actions: Action,
        code: str = EXIT_7,
        jump: Jump | None = None,
        flags: TableFlag = TableFlag(0),  # noqa: B008 - an immutable number
        program: bytes = PLAIN,
    ) -> Path:
        """An image that performs ``actions`` and enters ``code``."""
        last = jump or Jump(PROGRAM)
        return self.write(encode((*actions, last), program=program, spans=SPANS, flags=flags), code)

    def run(self, path: Path, *, verbose: bool = True) -> subprocess.CompletedProcess[bytes]:
        """Runs it as ``image hello``; /bin/echo, the plain way, then prints hello."""
        environment = {**self.environment, **({"SPIDL_VERBOSE": "1"} if verbose else {})}
        return subprocess.run(
            [path, "hello"], env=environment, capture_output=True, timeout=10, check=False
        )
