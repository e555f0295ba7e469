"""The kernel's SPL module: it makes a domain for itself and hands it to whom it trusts."""

from __future__ import annotations

from pathlib import Path

from spidl.domains import Domain, Interface

INTERFACE = Interface.read(Path(__file__).with_name("SPL.h"))
levels = [0]
"""Interrupt levels, the present one last."""


def high() -> int:
    levels.append(7)
    return levels[-2]


def restore(level: int) -> None:
    del levels[-1]
    levels[-1] = level


domain = Domain.from_interface(INTERFACE, {"SPL_High": high, "SPL_Restore": restore})
