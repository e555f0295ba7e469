"""Builds what is not Python into the package (boot/, decode/, launcher/); see pyproject.toml."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

from distutils.command.build_scripts import build_scripts  # isort: skip  (setuptools' own copy)

ROOT = Path(__file__).resolve().parent


AGAIN = "spidl/bin/spidl-again"
"""The launcher's second name, which only images use."""


@dataclass(frozen=True)
class Native:
    """A program that is compiled with one command, the same as in its folder's Makefile."""

    folder: str
    output: str
    """In the package's parent folder."""
    sources: tuple[str, ...]
    options: tuple[str, ...] = ()
    flags: str = "flags"
    """The file with the compiler's options."""

    def build(self, output: Path) -> None:
        """Compiles with $CC, or cc."""
        output.parent.mkdir(parents=True, exist_ok=True)
        compiler = shlex.split(os.environ.get("CC", "")) or ["cc"]
        command = [*compiler, f"@{self.flags}", *self.options, "-o", str(output.resolve()),
                   *self.sources]  # fmt: skip
        try:
            subprocess.run(command, cwd=ROOT / self.folder, check=True)
        except FileNotFoundError:
            raise CompileError(
                f"no C compiler: `{compiler[0]}` not found. Spidl's native parts are compiled when "
                "it is installed: install gcc (apt install gcc), or set CC"
            ) from None
        except subprocess.CalledProcessError as error:
            raise CompileError(
                f"`{shlex.join(command)}` failed in {self.folder} with status {error.returncode}; "
                "it needs gcc 10 or later, or clang, for x86-64"
            ) from None


BOOT = Native(
    "boot", "spidl/targets/exec/boot.elf",
    ("start.S", "shims.S", "boot.c", "check.c", "fail.c", "open.c", "report.c", "table.c"),
    ("-Wl,-T,boot.ld",),
)  # fmt: skip
TRACE = Native("boot", "spidl/modules/trace/trace.so", ("trace.S", "trace.c", "trace_text.c"),
               flags="trace.flags")  # fmt: skip
SPACES = Native("boot", "spidl/targets/exec/spaces.elf",
                ("spaces.S", "spaces.c", "spaces_tree.c"), ("-Wl,-T,spaces.ld",))  # fmt: skip
LAUNCHER = Native(
    "launcher", "spidl/bin/spidl",
    ("begin.S", "main.c", "request.c", "key.c", "entry.c", "start.c", "link.c", "world.c",
     "message.c", "text.c"),
)  # fmt: skip
SWEEP = Native("decode", "spidl/bin/sweep.so", ("sweep.c",))


class BuildPy(build_py):
    """build_py that compiles the native parts too, into the source tree where that is what runs."""

    def run(self) -> None:
        if sys.platform != "linux":
            raise CompileError("Spidl links ELF programs for Linux on x86-64")
        super().run()
        editable = getattr(self, "editable_mode", False)
        package = ROOT / "src" if editable else Path(self.build_lib)
        for native in (BOOT, SPACES, TRACE, LAUNCHER, SWEEP):
            native.build(package / native.output)
        shutil.copy(package / LAUNCHER.output, package / AGAIN)

    def get_source_files(self) -> list[str]:
        folders = [ROOT / native.folder for native in (BOOT, LAUNCHER, SWEEP)]
        files = [path for folder in folders for path in folder.iterdir()]
        native = [str(path.relative_to(ROOT)) for path in files if path.is_file()]
        return [*super().get_source_files(), *sorted(native)]


class BuildScripts(build_scripts):
    """The `spidl` command is the launcher itself, not a script."""

    def run(self) -> None:
        LAUNCHER.build(Path(self.build_dir) / "spidl")


# The modules are Python, the rest is not: any Python, one platform.
setup(
    cmdclass={"build_py": BuildPy, "build_scripts": BuildScripts},
    scripts=["spidl"],
    options={"bdist_wheel": {"plat_name": "linux_x86_64"}},
)
