"""Small programs and libraries, compiled for one question about the analysis."""

from __future__ import annotations

import subprocess
from pathlib import Path

from spidl.analyse import Summary, analyse
from spidl.analyse.names import name_of
from spidl.elf import ElfFile
from tests.needs import tool

LIBRARY = ("-shared", "-fPIC", "-O2", "-nostdlib", "-Wl,--build-id")


def build(
    folder: Path, source: str, *flags: str, language: str = "c", compiler: str = "gcc"
) -> Path:
    """Compile and link one source."""
    path = folder / f"source.{language}"
    path.write_text(source)
    output = folder / "built"
    command = [tool(compiler, compiler), "-o", str(output), str(path), *(flags or LIBRARY)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return output


def analysed(
    folder: Path, source: str, *flags: str, language: str = "c", compiler: str = "gcc"
) -> Summary:
    """The summary of what is compiled."""
    path = build(folder, source, *flags, language=language, compiler=compiler)
    return analyse(ElfFile.open(str(path)))


def calls(summary: Summary, name: str | None = None) -> set[str]:
    """Names of the system calls of an export, or of what is always reached."""
    which = summary.always
    if name is not None:
        which = next(at for (symbol, _), at in summary.exports.items() if symbol == name)
    return {name_of(number) for number in summary.classes[which].syscalls}


def imports(summary: Summary, name: str | None = None) -> set[str]:
    """Names of the imports of an export, or of what is always reached."""
    which = summary.always
    if name is not None:
        which = next(at for (symbol, _), at in summary.exports.items() if symbol == name)
    return {summary.imports[at][0] for at in summary.classes[which].imports}


def is_unknown(summary: Summary, name: str) -> bool:
    which = next(at for (symbol, _), at in summary.exports.items() if symbol == name)
    return summary.classes[which].unknown
