"""Words that only the running process knows: what IFUNC resolvers answer, TLS descriptors.

ld.so has asked for them in the runs of an adoption.  Where it could not, boot asks at each start:
in objects of other namespaces, which ld.so has not relocated, and for their functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spidl.diagnostics import Place, Refusal
from spidl.link.actions import Anchor, CallStore, Word
from spidl.link.link import Link
from spidl.link.memory import U64, Memory
from spidl.link.space import CopyRun, Deferred
from spidl.targets.exec.snapshot import Anchors


@dataclass(slots=True)
class Answers:
    """Deferred words by how they come into the image."""

    known: list[tuple[U64, U64]] = field(default_factory=list)
    """(addresses, values): constants."""
    words: list[Word] = field(default_factory=list)
    """Resolvers may answer with a function of the vDSO, which moves with each start."""
    calls: list[CallStore] = field(default_factory=list)
    """For boot to ask, once threads are set up."""


def deferred_words(link: Link, memory: Memory, anchors: Anchors) -> Answers:
    """The answers in the ``memory`` of one run, which had these ``anchors``.

    Raises Refusal ``adopt/no-descriptor``.
    """
    found = Answers()
    apart = {dso.label for dso in link.apart}
    same: dict[int, int] = {}
    for deferred in link.space.deferred:
        if deferred.by.dso not in apart:
            ours = ~_apart(link, deferred.functions)
            _ask_memory(deferred.addresses[ours], deferred.functions[ours], memory, anchors, found,
                        same)  # fmt: skip
            # ld.so was shown the resolvers themselves as the program's functions.
            _ask_boot(deferred.addresses[~ours], deferred.functions[~ours], found)
    for deferred in link.space.deferred:
        if deferred.by.dso in apart:
            if not deferred.functions.all():
                raise _no_descriptor(deferred)
            known = np.isin(deferred.functions, np.array([*same], np.uint64))
            values = [same[function] for function in deferred.functions[known].tolist()]
            found.known.append((deferred.addresses[known], np.array(values, np.uint64)))
            _ask_boot(deferred.addresses[~known], deferred.functions[~known], found)
    _copy(link, found)
    return found


def _ask_memory(
    addresses: U64, functions: U64, memory: Memory, anchors: Anchors, found: Answers,
    same: dict[int, int],
) -> None:  # fmt: skip
    """What ld.so has written; ``same`` learns what each resolver answered."""
    values = memory.read_words(addresses)
    found.known.append((addresses, values))
    moves = (values >= np.uint64(anchors.vdso)) & (values < np.uint64(anchors.vdso_end))
    if anchors.vdso and moves.any():
        found.words += [
            Word(address, Anchor.VDSO, value - anchors.vdso)
            for address, value in zip(addresses[moves].tolist(), values[moves].tolist(),
                                      strict=True)
        ]  # fmt: skip
    same |= dict(zip(functions[~moves].tolist(), values[~moves].tolist(), strict=True))


def _ask_boot(addresses: U64, functions: U64, found: Answers) -> None:
    found.calls += map(CallStore, functions.tolist(), addresses.tolist())


def _apart(link: Link, addresses: U64) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which addresses lie in objects of other namespaces."""
    inside = np.zeros(len(addresses), np.bool_)
    for dso in link.apart:
        inside |= (addresses >= np.uint64(dso.start)) & (addresses < np.uint64(dso.end))
    return inside


def _copy(link: Link, found: Answers) -> None:
    """The program's own copies of such words (R_X86_64_COPY)."""
    copies: Sequence[CopyRun] = [
        write for write in link.space.writes
        if isinstance(write, CopyRun) and any(d.start <= write.origin < d.end for d in link.apart)
    ]  # fmt: skip
    for copy in copies:
        end, moved = copy.origin + len(copy.content), copy.address - copy.origin
        found.calls += [CallStore(call.function, call.slot + moved)
                        for call in found.calls if copy.origin <= call.slot < end]  # fmt: skip
        for addresses, values in list(found.known):
            rows = (addresses >= np.uint64(copy.origin)) & (addresses < np.uint64(end))
            if rows.any():
                there = addresses[rows] + np.uint64(moved % 2**64)
                found.known.append((there, values[rows]))


def _no_descriptor(deferred: Deferred) -> Refusal:
    return Refusal(
        "adopt/no-descriptor",
        f"{deferred.by.dso} has TLS descriptors, which ld.so makes only for the program's own",
        place=Place(deferred.by.dso),
        help="take a build of the library without -mtls-dialect=gnu2",
    )
