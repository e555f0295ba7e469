"""The package as pip installs it: the launcher is the command, and finds its Python part."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import spidl

ROOT = Path(__file__).parents[1]
WANTED = ("boot", "decode", "launcher", "src", "pyproject.toml", "setup.py", "README.md", "LICENSE")
NATIVE = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.elf", "*.so", "bin")


def test_an_installed_command(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in WANTED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=NATIVE)
        else:
            shutil.copy(path, source / name)
    target = tmp_path / "target"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--target", target, source],
        check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    command = target / "bin/spidl"
    assert command.read_bytes().startswith(b"\x7fELF")
    assert command.read_bytes() == (target / "spidl/bin/spidl").read_bytes()
    env = {**os.environ, "PYTHONPATH": str(target), "SPIDL_CACHE": str(tmp_path / "cache")}
    shown = subprocess.run([command, "--version"], env=env, capture_output=True, check=True)
    assert shown.stdout == f"spidl {spidl.__version__}\n".encode()
    for _ in range(2):
        ran = subprocess.run([command, "run", "printf", "%s", "here"], env=env,
                             capture_output=True, check=True)  # fmt: skip
        assert (ran.stdout, ran.stderr) == (b"here", b"")
    assert list((tmp_path / "cache/images").glob("*/printf"))
