"""The frozen result of a link: what a target writes down or commits."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spidl.link.actions import Action, FileIdentity, MapFile, Protection


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Private pages: page-aligned address, content in whole pages, final permission."""

    address: int
    content: npt.NDArray[np.uint8]
    protection: Protection

    @property
    def end(self) -> int:
        return self.address + len(self.content)


@dataclass(frozen=True, slots=True, eq=False)
class LinkedImage:
    """A link as a value: mappings, actions and the identity of every input.

    ``pages`` are private, ``files`` are mapped from the original files at start; ``actions`` are
    in the order in which the started process performs them, without the checks and mappings.
    ``absent`` are paths that were looked for in vain.  ``debug`` is the run-time address of
    _r_debug for debuggers, 0 if there is none; ``boot`` the page-aligned address behind
    everything else, where the target may put its own code.
    """

    program: str
    pages: tuple[Pages, ...]
    files: tuple[MapFile, ...]
    checks: tuple[Action, ...]
    actions: tuple[Action, ...]
    inputs: MappingType[str, FileIdentity]
    absent: tuple[str, ...]
    policy: bool
    debug: int
    boot: int
