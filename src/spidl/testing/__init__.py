"""For the authors of modules: ELF files from a builder, links in memory, expected errors."""

from spidl.testing.elves import Define, Relocate, Undefined, build_dso
from spidl.testing.links import (
    PROGRAM,
    Bound,
    Expected,
    binding,
    expect,
    memory_link,
    program,
    word,
)

__all__ = [
    "PROGRAM",
    "Bound",
    "Define",
    "Expected",
    "Relocate",
    "Undefined",
    "binding",
    "build_dso",
    "expect",
    "memory_link",
    "program",
    "word",
]
