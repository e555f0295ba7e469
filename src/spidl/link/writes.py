"""What passes write, in batches, and who did it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spidl.link.memory import U8, U64


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who did it: phase, module and object names."""

    phase: str
    module: str
    dso: str

    def __str__(self) -> str:
        return f"{self.module} in {self.phase} of {self.dso}"


@dataclass(slots=True)
class Write:
    """A batch of equal-width writes.

    ``source`` names what asked for each word (index into the object's ``table``), for explain.
    ``owner`` is the index in ``owners`` of the module that wants another value than the system's
    linker would write, -1 where both must agree.
    """

    addresses: U64
    values: U64
    width: int
    by: Provenance
    table: str
    source: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int64]
    owners: list[str]
    _extent: tuple[int, int] | None = None

    def within(self, low: int, high: int) -> Write | None:
        """The words that begin in a range."""
        if self._extent is None:
            self._extent = int(self.addresses.min()), int(self.addresses.max())
        if self._extent[1] < low or self._extent[0] >= high:
            return None
        if low <= self._extent[0] and self._extent[1] < high:
            return self
        rows = np.flatnonzero(
            (self.addresses >= np.uint64(low)) & (self.addresses < np.uint64(high))
        )
        if not len(rows):
            return None
        return replace(self, addresses=self.addresses[rows], values=self.values[rows],
                       source=self.source[rows], owner=self.owner[rows], _extent=None)  # fmt: skip


@dataclass(slots=True)
class Deferred:
    """Words whose value only a running process knows (IFUNC results, TLS descriptors).

    ``functions`` are the resolvers to call, 0 where the run-time linker must provide the value.
    """

    addresses: U64
    functions: U64
    by: Provenance
    reason: str


@dataclass(slots=True)
class CopyRun:
    """Bytes written in one piece (COPY relocations, patches).

    ``origin`` is the run-time address that they were copied from, 0 for a module's own bytes,
    which may differ from what the system's linker would write.
    """

    address: int
    content: U8
    by: Provenance
    origin: int

    def within(self, low: int, high: int) -> CopyRun | None:
        """The part in a range."""
        start, end = max(low, self.address), min(high, self.address + len(self.content))
        if start >= end:
            return None
        return replace(
            self, address=start, content=self.content[start - self.address :][: end - start]
        )
