"""The run-time linker that stays in the process: what its module tells the target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spidl.link.facts import Fact

if TYPE_CHECKING:
    from spidl.link.dso import Dso


@dataclass(frozen=True, slots=True)
class Runtime:
    """A libc's own linker, whose state a target adopts.

    ``stop`` is the run-time address at which everything is relocated and no constructor has run;
    ``now_variable`` switches its binding of PLT slots to start-up (LD_BIND_NOW), where it has
    such a switch.  ``deny_brk``: its allocator must be kept from the break during adoption.
    ``moves_absolute``: it adds an object's bias to SHN_ABS symbols too, which the gABI does not.
    """

    linker: Dso
    stop: int
    now_variable: str | None = None
    deny_brk: bool = False
    moves_absolute: bool = False


RUNTIME: Fact[Runtime] = Fact("runtime")

EXPECTED_RUNTIME: Fact[Runtime] = Fact("expected-runtime")
"""What `RUNTIME` is likely to be, told in post-load: a target may begin its work with it, and must
compare it with `RUNTIME`, which counts."""

INTERPRETER: Fact[str] = Fact("interpreter")
"""The path of the run-time linker to take instead of the program's PT_INTERP; told while the
program's needs are collected."""
