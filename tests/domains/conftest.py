"""A workshop for object files, and the examples, built."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from spidl import domains
from spidl.domains import Domain, Interface
from spidl.domains.build import build
from spidl.domains.linker import HEADER
from tests.needs import tool

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "domains"


@dataclass(frozen=True)
class Workshop:
    """Compiles C text to objects in one folder."""

    folder: Path

    def object(self, name: str, text: str, *flags: str) -> Path:
        """An object file."""
        source, made = self.folder / f"{name}.c", self.folder / f"{name}.o"
        source.write_text(text)
        self._compile("-fPIC", "-c", *flags, "-o", str(made), str(source))
        return made

    def library(self, name: str, text: str, *flags: str) -> Path:
        """A shared library, linked against libc."""
        source, made = self.folder / f"{name}.c", self.folder / f"{name}.so"
        source.write_text(text)
        self._compile("-fPIC", "-shared", *flags, "-o", str(made), str(source))
        return made

    def domain(self, name: str, text: str, *flags: str) -> Domain:
        """A domain of an object file; RUNTIME is resolved already."""
        made = Domain.create(self.object(name, text, *flags))
        domains.resolve(domains.RUNTIME, made)
        return made

    def _compile(self, *arguments: str) -> None:
        command = [tool("cc", "gcc"), "-O2", "-Wall", *arguments]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    (tmp_path / "Domain.h").write_text(HEADER)
    return Workshop(tmp_path)


def call(domain: Domain, declaration: str, *arguments: Any) -> Any:
    """Call one function of a domain."""
    interface = Interface(declaration)
    (name,) = interface.names
    return getattr(domains.client(domain, interface), name)(*arguments)


def load_module(path: Path) -> ModuleType:
    """A Python file, as a module of its own."""
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def built(name: str, folder: Path) -> ModuleType:
    """Build an example; gives its binder."""
    binder = build(str(EXAMPLES / name), str(folder / name))[1]
    return load_module(Path(binder))


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60
    )
