"""System V: the generic ABI and its x86-64 supplement, a file a step.

gABI chapter 5 (program loading and dynamic linking), psABI sections 3.4 and 4.4.
"""

from __future__ import annotations

from spidl.api import (
    COLLECT,
    LOAD,
    POST_COLLECT,
    POST_LOAD,
    POST_RELOCATE,
    PROTECT,
    RECIPES,
    RELOCATE,
    START,
    Dso,
    Link,
    Module,
    Pipeline,
)
from spidl.modules.sysv.collect import collect, find
from spidl.modules.sysv.load import load
from spidl.modules.sysv.protect import protect
from spidl.modules.sysv.recipes import PSABI
from spidl.modules.sysv.relocate import copy_objects, relocate
from spidl.modules.sysv.relr import relocate_relr
from spidl.modules.sysv.start import start
from spidl.modules.sysv.symbols import exports
from spidl.modules.sysv.tls import place_tls


class SystemV(Module):
    """Loads, relocates and starts ELF objects."""

    name = "sysv"

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.strong(COLLECT, collect)
        pipeline.finder(find)
        pipeline.strong(LOAD, load)
        pipeline.weak(POST_COLLECT, bring_recipes)
        pipeline.strong(POST_LOAD, place_tls)
        pipeline.strong(RELOCATE, relocate)
        pipeline.weak(RELOCATE, relocate_relr)
        pipeline.weak(POST_RELOCATE, copy_objects)
        pipeline.strong(PROTECT, protect)
        pipeline.exports(exports)
        if dso.is_root:
            pipeline.strong(START, start)


def bring_recipes(link: Link) -> None:
    """Tell the relocation types of the psABI."""
    link.facts.setdefault(RECIPES, {}).update(PSABI)
