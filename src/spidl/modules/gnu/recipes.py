"""IRELATIVE: words that a function of the object itself computes (psABI 4.4, GNU IFUNC)."""

from __future__ import annotations

import numpy as np

from spidl.api import Batch, R, Recipe, Words, relocation_name


def _indirect_relative(batch: Batch) -> list[Words]:
    """The word is what the function at B + A returns."""
    everything = np.ones(len(batch.P), np.bool_)
    target = batch.B + batch.A
    return [Words(batch.P, target, everything, target, "IRELATIVE")]


GNU: dict[int, Recipe] = {
    int(R.IRELATIVE): Recipe(
        int(R.IRELATIVE), relocation_name(R.IRELATIVE), 8, _indirect_relative, uses_symbol=False
    ),
}
"""The recipes, by relocation number."""
