"""Summaries that are found rather than made: in the file itself, or kept from last time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from spidl.analyse.analyser import analyse, identity
from spidl.analyse.note import embedded
from spidl.analyse.summary import Summary
from spidl.diagnostics import LinkError
from spidl.elf import ElfFile

_ARRAY = "packed"
_MADE: dict[bytes, npt.NDArray[np.uint8]] = {}
"""What this process has made, by the digest of the file: Mesa's drivers are one file of many
names."""


class Keeper(Protocol):
    """Whoever opened files and keeps what is found out about them: `spidl.link.objects.Objects`."""

    def keep(self, files: Iterable[ElfFile], /) -> None:
        """Keep what was derived from files."""


def packed_summary(file: ElfFile) -> Mapping[str, npt.NDArray[Any]]:
    """The summary of a file as bytes, for `ElfFile.derived`."""
    digest = hashlib.sha256(file.data.tobytes()).digest()
    if digest not in _MADE:
        _MADE[digest] = np.frombuffer(analyse(file).to_bytes(), dtype=np.uint8).copy()
    return {_ARRAY: _MADE[digest]}


_KEY = f"{packed_summary.__module__}.{packed_summary.__qualname__}"


def summary_of(file: ElfFile, store: Keeper | None = None) -> Summary:
    """The summary of a file: embedded in it, kept by ``store``, which opened it, or made now.

    An embedded one counts only if it has the file's build-id.  Raises LinkError as `analyse`.
    """
    found = embedded(file)
    if found is not None and found.build_id == identity(file):
        return found
    if _KEY in file.derivations:
        try:
            return Summary.from_bytes(file.derivations[_KEY][_ARRAY], file.name)
        except LinkError:  # of an older analyser
            del file.derivations[_KEY]
    packed = file.derived(packed_summary)[_ARRAY]
    if store is not None:
        store.keep([file])
    return Summary.from_bytes(packed, file.name)
