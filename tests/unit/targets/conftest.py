"""Boot code compiled from the tree, and images made with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.needs import tool
from tinyimage import Tiny

from spidl.targets.exec.boot import BootCode, load_boot

SOURCES = Path(__file__).parents[3] / "boot"


@pytest.fixture(scope="session")
def boot(tmp_path_factory: pytest.TempPathFactory) -> BootCode:
    tool("cc", "gcc")
    output = tmp_path_factory.mktemp("boot") / "boot.elf"
    subprocess.run(["make", "-s", "-C", SOURCES, f"OUT={output}"], check=True)
    return load_boot(output)


@pytest.fixture
def tiny(boot: BootCode, tmp_path: Path) -> Tiny:
    return Tiny(boot, tmp_path)
