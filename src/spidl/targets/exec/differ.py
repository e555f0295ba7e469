"""Which words of a process depend on its start, and on what.

The same program is captured several times under address-space randomisation, with other arguments,
environments and stack limits.  Words that are equal in all runs are constants of the link.  Each
other word must follow one *anchor* (the stack, the vDSO, the thread id, ...) in every run; whatever
does not is unexplained, and an image of it could not be trusted.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from spidl.link.actions import Anchor, Word
from spidl.link.memory import U8, U64, Memory, is_zeros
from spidl.targets.exec.snapshot import Anchors, Region, Snapshot

_MASK = 2**64 - 1
_POINTERS: tuple[tuple[Anchor, Callable[[Anchors], int], int, int], ...] = (
    # Anchor, its value, and the least and greatest distance in bytes at which a word follows it:
    # before the path of AT_EXECFN lies the environment, whose pointers follow none of these.
    # Most particular first: argv lies at a fixed distance from the stack pointer, not conversely.
    (Anchor.VDSO, lambda a: a.vdso, 0, 1 << 20),
    (Anchor.RANDOM, lambda a: a.random_address, 0, 15),
    (Anchor.PLATFORM, lambda a: a.platform, 0, 15),
    (Anchor.EXECFN, lambda a: a.execfn, 0, 1 << 12),
    (Anchor.AUXV, lambda a: a.auxv, 0, 1 << 10),
    (Anchor.ENVP, lambda a: a.envp, -8, 1 << 10),
    (Anchor.STACK, lambda a: a.stack, -(1 << 16), 1 << 10),
    (Anchor.BRK, lambda a: a.brk, 0, 0),
)
_NUMBERS: tuple[tuple[Anchor, Callable[[Anchors], int]], ...] = (
    (Anchor.THREAD, lambda a: a.thread),
    (Anchor.ARGC, lambda a: a.argc),
    (Anchor.STACK_LIMIT, lambda a: (a.stack_limit + 4095) & -4096),
)
_RANDOM_MASKS = (_MASK, _MASK & ~0xFF, _MASK & ~0xFF00)
"""The whole word, glibc's canary (lowest byte 0), musl's (second byte 0)."""


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
        if not data.flags.writeable:
            continue  # the same in all of them, see `memories_of`
        words = data[: len(data) & -8].view(np.uint64)
        differs = words != others[0].blocks[i][1][: len(data) & -8].view(np.uint64)
        for other in others[1:]:
            differs |= words != other.blocks[i][1][: len(data) & -8].view(np.uint64)
        if differs.any():
            found.append(
                np.flatnonzero(differs).astype(np.uint64) * np.uint64(8) + np.uint64(start)
            )
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def explain(address: int, values: Sequence[int], anchors: Sequence[Anchors]) -> list[Word] | None:
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
    for anchor, of, least, most in _POINTERS:
        if not all(of(a) for a in anchors):
            continue
        distances = {(value - of(a)) & _MASK for value, a in zip(values, anchors, strict=True)}
        if len(distances) == 1:
            distance = distances.pop()
            signed = distance - (1 << 64) if distance >> 63 else distance
            if least <= signed <= most:
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


def memories_of(snapshots: Sequence[Snapshot]) -> list[Memory]:
    """The private memory of each run, with the same blocks in all of them.

    Runs need not touch the same pages: regions are cut where those of another run begin or end,
    and what is untouched becomes an array where another run has content of its own.
    """
    shapes = [[(r.address, r.end, _origin(r.content)) for r in run.regions] for run in snapshots]
    if all(shape == shapes[0] for shape in shapes):
        return [Memory([(r.address, r.content) for r in run.regions], run.own) for run in snapshots]
    cuts = sorted({at for shape in shapes for start, end, _ in shape for at in (start, end)})
    runs = [[block for r in run.regions for block in _cut(r, cuts)] for run in snapshots]
    same = [len({_origin(data) for _, data in blocks}) == 1 and not blocks[0][1].flags.writeable
            for blocks in zip(*runs, strict=True)]  # fmt: skip
    return [_gathered(blocks, same) for blocks in runs]


def _origin(content: U8) -> int:
    """The same number for what is untouched in the same way: 0 for zeros, the address of a view."""
    if content.flags.writeable:
        return -1
    return 0 if is_zeros(content) else content.ctypes.data


def _gathered(blocks: Sequence[tuple[int, U8]], same: Sequence[bool]) -> Memory:
    """A memory whose blocks are parts of one array, but for those that are the ``same`` in all."""
    sizes = [0 if same[i] else len(data) for i, (_, data) in enumerate(blocks)]
    flat = np.empty(sum(sizes), np.uint8)
    placed, at = [], 0
    for (start, data), size, stays in zip(blocks, sizes, same, strict=True):
        part = flat[at : at + size]
        part[:] = data[:size]
        placed.append((start, data if stays else part))
        at += size
    return Memory(placed, flat)


def _cut(region: Region, cuts: Sequence[int]) -> list[tuple[int, U8]]:
    inner = cuts[bisect_left(cuts, region.address) : bisect_right(cuts, region.end)]
    return [
        (start, region.content[start - region.address : end - region.address])
        for start, end in pairwise(inner)
    ]


def same_shape(snapshots: Sequence[Snapshot]) -> bool:
    """Whether all runs have private memory at the same addresses."""
    return len({tuple(_extents(snapshot)) for snapshot in snapshots}) == 1


def _extents(snapshot: Snapshot) -> list[tuple[int, int]]:
    extents: list[tuple[int, int]] = []
    for region in snapshot.regions:
        if extents and extents[-1][1] == region.address:
            extents[-1] = extents[-1][0], region.end
        else:
            extents.append((region.address, region.end))
    return extents
