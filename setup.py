"""Builds the boot code (boot/) into the package; all else is in pyproject.toml."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

ROOT = Path(__file__).resolve().parent
BOOT = ROOT / "boot"
SOURCES = ("start.S", "shims.S", "boot.c", "check.c", "fail.c", "table.c")
OUTPUT = "spidl/targets/exec/boot.elf"


def build_boot(output: Path) -> None:
    """Compiles boot.elf with $CC, or cc; the same command as in boot/Makefile."""
    output.parent.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
    command = [*compiler, "@flags", "-Wl,-T,boot.ld", "-o", str(output.resolve()), *SOURCES]
    try:
        subprocess.run(command, cwd=BOOT, check=True)
    except FileNotFoundError:
        raise CompileError(
            f"no C compiler: `{compiler[0]}` not found. Spidl's boot code is compiled when it is "
            "installed: install gcc (apt install gcc), or set CC"
        ) from None
    except subprocess.CalledProcessError as error:
        raise CompileError(
            f"`{shlex.join(command)}` failed in {BOOT} with status {error.returncode}; "
            "the boot code needs gcc 10 or later, or clang, for x86-64"
        ) from None


class BuildPy(build_py):
    """build_py that compiles boot.elf too, into the source tree where that is what runs."""

    def run(self) -> None:
        if sys.platform != "linux":
            raise CompileError("Spidl links ELF programs for Linux on x86-64")
        super().run()
        editable = getattr(self, "editable_mode", False)
        build_boot((ROOT / "src" if editable else Path(self.build_lib)) / OUTPUT)

    def get_source_files(self) -> list[str]:
        boot = [str(path.relative_to(ROOT)) for path in BOOT.iterdir() if path.is_file()]
        return [*super().get_source_files(), *sorted(boot)]


# The modules are Python, boot.elf is not: any Python, one platform.
setup(cmdclass={"build_py": BuildPy}, options={"bdist_wheel": {"plat_name": "linux_x86_64"}})
