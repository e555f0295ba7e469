"""DT_RELR: packed relative relocations (gABI, chapter 5, Relative Relocation Table)."""

from __future__ import annotations

import numpy as np

from spidl.api import Dso, Link
from spidl.modules.sysv.relocate import starts_itself


def relocate_relr(dso: Dso, link: Link) -> None:
    """Add the bias to each word of the bitmap."""
    places = dso.file.relr
    if len(places) and not starts_itself(dso):
        addresses = places + np.uint64(dso.bias)
        values = link.space.read_words(addresses, link.by) + np.uint64(dso.bias)
        link.space.write(addresses, values, link.by, table="DT_RELR")
