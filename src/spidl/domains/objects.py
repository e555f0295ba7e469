"""Object files (.o) as shared objects: the system's compiler driver joins their sections."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from spidl.diagnostics import LinkError
from spidl.elf import ET

LINK = ("-shared", "-nostdlib", "-Wl,-z,now,-z,relro,-z,noexecstack,--build-id=none")
"""How a domain's file is linked: against nothing, so that every need stays undefined."""


def compile_with(arguments: Sequence[str], folder: str | None = None) -> None:
    """Run the C compiler: CC, or ``cc``.  Raises `LinkError` ``domain/no-compiler``,
    ``domain/compile``."""
    command = [*shlex.split(os.environ.get("CC") or "cc"), *arguments]
    try:
        result = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace",
        )  # fmt: skip
    except OSError as error:
        raise LinkError(
            "domain/no-compiler", f"cannot run {command[0]}: {error.strerror}",
            help="install gcc or clang, or set CC",
        ) from None  # fmt: skip
    if result.returncode:
        raise LinkError(
            "domain/compile",
            f"{shlex.join(command)} fails with status {result.returncode}",
            notes=tuple(result.stderr.splitlines()[:12]),
            help="correct what the compiler says",
        )


@contextmanager
def shared_object(path: str) -> Iterator[str]:
    """The path of a shared object that holds an object file; of the file itself if it is one.

    What is made for an object file is gone afterwards; mappings of it stay.  Raises `LinkError`
    ``domain/no-compiler``, ``domain/compile``.
    """
    if _type(path) != ET.REL:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="spidl-") as folder:
        made = os.path.join(folder, os.path.basename(path).removesuffix(".o") + ".so")
        compile_with([*LINK, "-o", made, path])
        yield made


def _type(path: str) -> int:
    """e_type, 0 where there is none: parsing will say why."""
    try:
        if not os.path.isfile(path):
            return 0
        with open(path, "rb") as file:
            head = file.read(18)
    except (OSError, ValueError):
        return 0
    return int.from_bytes(head[16:18], "little") if head.startswith(b"\x7fELF") else 0
