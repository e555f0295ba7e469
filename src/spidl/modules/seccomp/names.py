"""Names as hashes: which of many are among others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spidl.api import I64, U64, name_hashes

_NONE = np.zeros(0, np.int64)
_PART = 1 << 14
"""Hashes looked at together: what is computed of them stays in the processor's cache."""


def hashes_of(names: Sequence[str]) -> U64:
    """`name_hash` of each name."""
    text = ("\0".join(names) + "\0" if names else "").encode(errors="surrogateescape")
    strings = np.frombuffer(text, np.uint8)
    nuls = np.flatnonzero(strings == 0)
    return name_hashes(strings, np.concatenate([[0], nuls[:-1] + 1])[: len(nuls)], nuls)


class Among:
    """Which names are among some, whose hashes are given in ascending order.

    A table by some of the bits dismisses nearly all others at the price of one look; what is left
    is searched for.
    """

    def __init__(self, wanted: U64) -> None:
        self._wanted = wanted
        bits = max(len(wanted).bit_length() + 3, 10)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, np.bool_)
        self._table[wanted >> self._shift] = True

    def rows(self, hashes: U64) -> I64:
        """Rows that are among them."""
        if not len(self._wanted) or not len(hashes):
            return _NONE
        parts = [_NONE]
        for first in range(0, len(hashes), _PART):
            part = hashes[first : first + _PART]
            parts.append(np.flatnonzero(self._table[part >> self._shift]) + first)
        rows = np.concatenate(parts)
        left = hashes[rows]
        at = np.minimum(self._wanted.searchsorted(left), len(self._wanted) - 1)
        found: I64 = rows[self._wanted[at] == left]
        return found


def rows_among(hashes: U64, wanted: U64) -> I64:
    """Rows of ``hashes`` that are among ``wanted``, which is ascending."""
    return Among(wanted).rows(hashes)
