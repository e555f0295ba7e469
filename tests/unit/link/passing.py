"""A module from functions, for tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

from spidl.api import Definition, Dso, Link, Module, Pipeline, SymbolRequest
from spidl.link.phases import Phase, PostPhase

AnyPhase = Phase[Any] | PostPhase
FUNCTION = b"\xc3"  # ret


class Passes(Module):
    """Registers passes for one object, the program unless ``only`` names another."""

    weak: dict[AnyPhase, Callable[..., Any]] = field(default_factory=dict)
    strong: dict[AnyPhase, Callable[..., Any]] = field(default_factory=dict)
    resolve: Callable[[SymbolRequest, Dso, Link], Definition | None] | None = None
    only: str = "program"

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.name != self.only:
            return
        for phase, run in self.weak.items():
            pipeline.weak(phase, run)
        for phase, run in self.strong.items():
            pipeline.strong(phase, run)
        if self.resolve is not None:
            pipeline.resolver(self.resolve)


class Second(Passes):
    """Another module of the kind: a module is listed once."""


class Third(Passes):
    """And one more."""
