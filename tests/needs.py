"""Tools that tests need: a missing one is a failure that names its Debian package, not a skip."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def tool(name: str, package: str) -> str:
    """The path of a program, or a failed test.

    In a sweep over another system (SPIDL_SURVEY=1) what that system lacks is left out instead.
    """
    path = shutil.which(name)
    if path is None:
        missing(f"{name} is not installed: apt-get install {package}")
    return path


def missing(message: str) -> NoReturn:
    """Fail, or in a sweep skip, for the reason that ``message`` gives."""
    if os.environ.get("SPIDL_SURVEY"):
        pytest.skip(message)
    pytest.fail(message, pytrace=False)
