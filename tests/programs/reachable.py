"""Python and Spidl where every user can reach them.

A virtual environment, or the Python under it, often lies in a folder that is its owner's alone.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

import numpy

from .harness import SOURCE


@cache
def reachable() -> tuple[str, dict[str, str]]:
    """A Python that every user may run, and the variables under which it finds all it needs."""
    before = os.umask(0o022)
    try:
        return _made(Path(tempfile.mkdtemp(prefix="spidl-world-")))
    finally:
        os.umask(before)


def _made(world: Path) -> tuple[str, dict[str, str]]:
    atexit.register(shutil.rmtree, world, ignore_errors=True)
    world.chmod(0o755)
    shutil.copytree(SOURCE / "spidl", world / "src/spidl", ignore=_CACHES)
    binary = Path(sys.executable).resolve()
    library = Path(sysconfig.get_path("stdlib"))
    root = Path(sys.base_prefix)
    for name in (binary, *_shared_libraries()):
        target = world / name.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, target)
    # Copies: a hard link would be a change of the original, and its images no longer fit.
    shutil.copytree(library, world / library.relative_to(root), ignore=_BIG, symlinks=True)
    packages = Path(numpy.__file__).parents[1]
    for package in packages.glob("numpy*"):
        shutil.copytree(package, world / "site" / package.name, ignore=_BIG)
    paths = f"{world / 'src'}:{world / 'site'}"
    return str(world / binary.relative_to(root)), {"PYTHONPATH": paths}


_CACHES = shutil.ignore_patterns("__pycache__")
_BIG = shutil.ignore_patterns(
    "__pycache__", "test", "tests", "site-packages", "dist-packages", "idlelib", "ensurepip"
)


def _shared_libraries() -> list[Path]:
    """The interpreter's own library, where it has one."""
    folder = sysconfig.get_config_var("LIBDIR")
    name = sysconfig.get_config_var("INSTSONAME")
    path = Path(folder, name) if folder and name else None
    inside = path is not None and path.is_relative_to(sys.base_prefix)
    return [path] if path is not None and inside and path.suffix != ".a" and path.exists() else []
