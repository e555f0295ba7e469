"""Which words of a process depend on its start, and on what.

The same program is captured several times under address-space randomisation, with other arguments,
environments and stack limits.  Words that are equal in all runs are constants of the link.  Each
other word must follow one *anchor* (the stack, the vDSO, the thread id, ...) in every run; whatever
does not is unexplained, and an image of it could not be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spidl.link.actions import Anchor, Word
from spidl.link.memory import U64, Memory
from spidl.targets.exec.snapshot import Anchors, Snapshot

_MASK = 2**64 - 1
_POINTERS: tuple[tuple[Anchor, Callable[[Anchors], int]], ...] = (
    # Most particular first: argv lies at a fixed distance from the stack pointer, not conversely.
    (Anchor.VDSO, lambda a: a.vdso),
    (Anchor.RANDOM, lambda a: a.random_address),
    (Anchor.PLATFORM, lambda a: a.platform),
    (Anchor.EXECFN, lambda a: a.execfn),
    (Anchor.AUXV, lambda a: a.auxv),
    (Anchor.ENVP, lambda a: a.envp),
    (Anchor.STACK, lambda a: a.stack),
    (Anchor.BRK, lambda a: a.brk),
)
_NUMBERS: tuple[tuple[Anchor, Callable[[Anchors], int]], ...] = (
    (Anchor.THREAD, lambda a: a.thread),
    (Anchor.ARGC, lambda a: a.argc),
    (Anchor.STACK_LIMIT, lambda a: (a.stack_limit + 4095) & -4096),
)
_RANDOM_MASKS = (_MASK, _MASK & ~0xFF, _MASK & ~0xFF00)
"""The whole word, glibc's canary (lowest byte 0), musl's (second byte 0)."""
_FAR = 1 << 30
"""A pointer into the stack or the vDSO lies within this many bytes of its anchor."""


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A word that differs between runs and follows no anchor."""

    address: int
    values: tuple[int, ...]


def differing(memories: Sequence[Memory]) -> U64:
    """Addresses of the 8-byte words that are not equal in all memories of the same shape."""
    first, *others = memories
    found = []
    for i, (start, data) in enumerate(first.blocks):
        words = data[: len(data) & -8].view(np.uint64)
        differs = np.zeros(len(words), np.bool_)
        for other in others:
            differs |= words != other.blocks[i][1][: len(data) & -8].view(np.uint64)
        found.append(np.flatnonzero(differs).astype(np.uint64) * np.uint64(8) + np.uint64(start))
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def explain(
    address: int, values: Sequence[int], anchors: Sequence[Anchors]
) -> list[Word] | None:
    """The words that boot must write at ``address``, or None if the values follow no anchor."""
    whole = _follow(values, anchors)
    if whole is not None:
        return [Word(address, whole[0], whole[1])]
    words = []
    for shift, offset in ((0, 0), (32, 4)):
        halves = [(value >> shift) & 0xFFFFFFFF for value in values]
        if len(set(halves)) == 1:
            continue
        number = _follow_number(halves, anchors)
        if number is None:
            return None
        words.append(Word(address + offset, number, 0, 4))
    return words


def _follow(values: Sequence[int], anchors: Sequence[Anchors]) -> tuple[Anchor, int] | None:
    for anchor, of in _POINTERS:
        if not all(of(a) for a in anchors):
            continue
        distances = {(value - of(a)) & _MASK for value, a in zip(values, anchors, strict=True)}
        if len(distances) == 1:
            distance = distances.pop()
            signed = distance - (1 << 64) if distance >> 63 else distance
            if abs(signed) < _FAR:
                return anchor, signed
    number = _follow_number(values, anchors)
    if number is not None:
        return number, 0
    for anchor, part in ((Anchor.RANDOM0, slice(0, 8)), (Anchor.RANDOM1, slice(8, 16))):
        for mask in _RANDOM_MASKS:
            expected = [int.from_bytes(a.random[part], "little") & mask for a in anchors]
            if list(values) == expected:
                return anchor, mask
    return None


def _follow_number(values: Sequence[int], anchors: Sequence[Anchors]) -> Anchor | None:
    for anchor, of in _NUMBERS:
        if list(values) == [of(a) for a in anchors]:
            return anchor
    return None


def memory_of(snapshot: Snapshot) -> Memory:
    """The private memory of a snapshot."""
    return Memory([(region.address, region.content) for region in snapshot.regions])


def same_shape(snapshots: Sequence[Snapshot]) -> bool:
    """Whether all runs have the same regions at the same addresses."""
    shapes = {
        tuple((region.address, len(region.content)) for region in snapshot.regions)
        for snapshot in snapshots
    }
    return len(shapes) == 1
