"""Functions that do nothing before another one has run: edges that lead from there instead."""

from __future__ import annotations

import numpy as np

from spidl.analyse.functions import Functions
from spidl.analyse.known import AFTER
from spidl.analyse.layout import Column


def only_after(functions: Functions, sources: Column, targets: Column) -> tuple[Column, Column]:
    """The edges of a file's graph, by what is known of its build.

    Whoever calls a function that does nothing yet reaches nothing by it; what it will do hangs on
    those after which it does something.  A table that does not fit the file is not used.
    """
    build_id = functions.layout.file.build_id
    text = AFTER.get(build_id.hex()) if build_id else None
    for rule in text.split(";") if text else ():
        starts = [
            np.array([int(word, 16) for word in part.split()], dtype=np.int64)
            for part in rule.split("<")
        ]
        later, first = (functions.home(part) for part in starts)
        fits = [np.isin(part, functions.starts[: functions.ranges]).all() for part in starts]
        if not all(fits):
            continue
        others = ~np.isin(targets, later)
        sources = np.concatenate([sources[others], np.repeat(first, len(later))])
        targets = np.concatenate([targets[others], np.tile(later, len(first))])
    return sources, targets
