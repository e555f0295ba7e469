"""Bytes at addresses: a sorted set of arrays that batches of words are read from and written to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_DTYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Memory:
    """Arrays of bytes at addresses that do not overlap."""

    def __init__(self, blocks: Sequence[tuple[int, U8]]) -> None:
        self.blocks = sorted(blocks, key=lambda block: block[0])
        self._starts = np.array([start for start, _ in self.blocks], np.uint64)
        self._sizes = np.array([len(data) for _, data in self.blocks], np.uint64)

    def _split(self, addresses: U64, width: int) -> Iterator[tuple[U8, npt.NDArray[np.intp], I64]]:
        """(block, rows, offsets) for all addresses; LookupError(address) for one outside."""
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
            yield self.blocks[number][1], rows, offset[rows].astype(np.int64)

    def read_words(self, addresses: U64, width: int = 8) -> U64:
        """The words at addresses, zero-extended.  Raises LookupError(address) outside."""
        values = np.zeros(len(addresses), np.uint64)
        for data, rows, offset in self._split(addresses, width):
            if width > 1 and (offset & (width - 1)).any():
                values[rows] = _gather(data, offset, width)
            else:
                whole = data[: len(data) & -width].view(_DTYPES[width])
                values[rows] = whole[offset // width]
        return values

    def write_words(self, addresses: U64, values: U64, width: int = 8) -> None:
        """Write words, truncated to ``width`` bytes.  Raises LookupError(address) outside."""
        for data, rows, offset in self._split(addresses, width):
            chosen = values[rows]
            if width > 1 and (offset & (width - 1)).any():
                octets = chosen.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
                data[offset[:, None] + np.arange(width)] = octets
            else:
                whole = data[: len(data) & -width].view(_DTYPES[width])
                whole[offset // width] = chosen.astype(_DTYPES[width])

    def _block(self, address: int, size: int) -> tuple[U8, int]:
        index = int(np.searchsorted(self._starts, np.uint64(address), "right")) - 1
        if index >= 0:
            start, data = self.blocks[index]
            if address - start + size <= len(data):
                return data, address - start
        raise LookupError(address)

    def read_bytes(self, address: int, size: int) -> U8:
        """A copy of bytes that may cross blocks.  Raises LookupError(address) outside."""
        parts = []
        while size > 0:
            data, offset = self._block(address, 1)
            part = data[offset : offset + size]
            parts.append(part)
            address += len(part)
            size -= len(part)
        return np.concatenate(parts) if parts else np.zeros(0, np.uint8)

    def write_bytes(self, address: int, content: U8) -> None:
        """Write bytes that may cross blocks.  Raises LookupError(address) outside."""
        done = 0
        while done < len(content):
            data, offset = self._block(address + done, 1)
            part = content[done : done + len(data) - offset]
            data[offset : offset + len(part)] = part
            done += len(part)

    def copy(self) -> Memory:
        """An independent copy."""
        return Memory([(start, data.copy()) for start, data in self.blocks])


def _gather(data: U8, offset: I64, width: int) -> U64:
    octets = np.zeros((len(offset), 8), np.uint8)
    octets[:, :width] = data[offset[:, None] + np.arange(width)]
    return octets.view("<u8").reshape(-1).astype(np.uint64)
