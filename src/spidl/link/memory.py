"""Bytes at addresses: a sorted set of arrays that batches of words are read from and written to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_DTYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def zeros(size: int) -> U8:
    """Bytes that are all zero and take no memory: a read-only view of one of them."""
    return np.broadcast_to(np.zeros(1, np.uint8), size)


def is_zeros(data: U8) -> bool:
    """Whether an array is one that `zeros` made, or part of one."""
    return data.strides == (0,)


class Memory:
    """Arrays of bytes at addresses that do not overlap.

    A read-only array (zeros, or a view of a mapped file) is copied when it is first written to.
    """

    def __init__(self, blocks: Sequence[tuple[int, U8]]) -> None:
        self.blocks = sorted(blocks, key=lambda block: block[0])
        self._starts = np.array([start for start, _ in self.blocks], np.uint64)
        self._sizes = np.array([len(data) for _, data in self.blocks], np.uint64)

    def _split(self, addresses: U64, width: int) -> Iterator[tuple[int, npt.NDArray[np.intp], I64]]:
        """(block number, rows, offsets) for all addresses; LookupError(address) for one outside."""
        if not len(addresses):
            return
        if not len(self.blocks):
            raise LookupError(int(addresses[0]))
        index = np.searchsorted(self._starts, addresses, "right").astype(np.int64) - 1
        offset = addresses - self._starts[np.maximum(index, 0)]
        bad = (index < 0) | (offset + np.uint64(width) > self._sizes[np.maximum(index, 0)])
        if bad.any():
            raise LookupError(int(addresses[np.flatnonzero(bad)[0]]))
        used = np.flatnonzero(np.bincount(index))
        for number in used:
            rows = np.arange(len(addresses)) if len(used) == 1 else np.flatnonzero(index == number)
            yield int(number), rows, offset[rows].astype(np.int64)

    def _writable(self, number: int) -> U8:
        start, data = self.blocks[number]
        if not data.flags.writeable:
            data = np.zeros(len(data), np.uint8) if is_zeros(data) else data.copy()
            self.blocks[number] = start, data
        return data

    def holds(self, addresses: U64, width: int = 8) -> npt.NDArray[np.bool_]:
        """Whether the words at addresses lie inside."""
        if not len(self.blocks):
            return np.zeros(len(addresses), np.bool_)
        after = np.searchsorted(self._starts, addresses, "right")
        index = np.maximum(after, 1) - 1
        offset = addresses - self._starts[index]
        room = self._sizes[index]
        held: npt.NDArray[np.bool_] = (
            (after > 0) & (offset < room) & (room - offset >= np.uint64(width))
        )
        return held

    def read_words(self, addresses: U64, width: int = 8) -> U64:
        """The words at addresses, zero-extended.  Raises LookupError(address) outside."""
        values = np.zeros(len(addresses), np.uint64)
        for number, rows, offset in self._split(addresses, width):
            data = self.blocks[number][1]
            if is_zeros(data):
                continue
            if width > 1 and (offset & (width - 1)).any():
                values[rows] = _gather(data, offset, width)
            else:
                whole = data[: len(data) & -width].view(_DTYPES[width])
                values[rows] = whole[offset // width]
        return values

    def write_words(self, addresses: U64, values: U64, width: int = 8) -> None:
        """Write words, truncated to ``width`` bytes.  Raises LookupError(address) outside."""
        for number, rows, offset in self._split(addresses, width):
            data = self._writable(number)
            chosen = values[rows]
            if width > 1 and (offset & (width - 1)).any():
                octets = chosen.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
                data[offset[:, None] + np.arange(width)] = octets
            else:
                whole = data[: len(data) & -width].view(_DTYPES[width])
                whole[offset // width] = chosen.astype(_DTYPES[width])

    def _block(self, address: int) -> tuple[int, int]:
        """The number of the block that holds an address, and the offset in it."""
        if not 0 <= address < 1 << 64:  # what a damaged file adds up to
            raise LookupError(address)
        index = int(np.searchsorted(self._starts, np.uint64(address), "right")) - 1
        if index >= 0:
            start, data = self.blocks[index]
            if address - start < len(data):
                return index, address - start
        raise LookupError(address)

    def read_bytes(self, address: int, size: int) -> U8:
        """A copy of bytes that may cross blocks.  Raises LookupError(address) outside."""
        parts: list[U8] = []
        while size > 0:
            number, offset = self._block(address)
            part = self.blocks[number][1][offset : offset + size]
            if is_zeros(part) and len(part) >= size and not parts:
                return part[:size]
            parts.append(part)
            address += len(part)
            size -= len(part)
        return np.concatenate(parts) if parts else np.zeros(0, np.uint8)

    def write_bytes(self, address: int, content: U8) -> None:
        """Write bytes that may cross blocks.  Raises LookupError(address) outside."""
        done = 0
        while done < len(content):
            number, offset = self._block(address + done)
            data = self._writable(number)
            part = content[done : done + len(data) - offset]
            data[offset : offset + len(part)] = part
            done += len(part)

    def copy(self) -> Memory:
        """An independent copy."""
        return Memory(
            [(at, data.copy() if data.flags.writeable else data) for at, data in self.blocks]
        )


def among(values: U64, ordered: U64) -> npt.NDArray[np.bool_]:
    """Which values occur in an ascending array (np.isin sorts both of its arguments)."""
    if not len(ordered):
        return np.zeros(len(values), np.bool_)
    at = np.searchsorted(ordered, values)
    found: npt.NDArray[np.bool_] = ordered[np.minimum(at, len(ordered) - 1)] == values
    return found


def _gather(data: U8, offset: I64, width: int) -> U64:
    octets = np.zeros((len(offset), 8), np.uint8)
    octets[:, :width] = data[offset[:, None] + np.arange(width)]
    return octets.view("<u8").reshape(-1).astype(np.uint64)
