"""Bytes at addresses: a sorted set of arrays that batches of words are read from and written to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_FAR = 1 << 62
"""Added to an address: behind every array."""
_PAGE_BITS = 12
_PAGE = 1 << _PAGE_BITS
_MANY = 8
"""Blocks, from which on the words of a batch are sorted by block."""
_MOST_PAGES = 1 << 22
"""Of address space, for which a table of all pages is worth its memory."""
_DTYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def zeros(size: int) -> U8:
    """Bytes that are all zero and take no memory: a read-only view of one of them."""
    return np.broadcast_to(np.zeros(1, np.uint8), size)


def is_zeros(data: U8) -> bool:
    """Whether an array is one that `zeros` made, or part of one."""
    return data.strides == (0,)


class _Flat:
    """The one array that writable blocks are parts of, and where each address lies in it."""

    def __init__(self, blocks: Sequence[tuple[int, U8]], flat: U8) -> None:
        self.words = flat[: len(flat) & -8].view(np.uint64)
        self._first = blocks[0][0] if blocks else 0
        pages = -(-(blocks[-1][0] + len(blocks[-1][1]) - self._first) // _PAGE) if blocks else 0
        whole = all(start % _PAGE == 0 and len(data) % _PAGE == 0 for start, data in blocks)
        self._shifts: U64 | None = None
        """Page by page, what makes an address a byte's position in the array."""
        if whole and pages <= _MOST_PAGES:
            self._shifts = np.full(pages, _FAR, np.uint64)
        self._starts = np.array([start for start, _ in blocks], np.uint64)
        self._ends = self._starts + np.array([len(data) for _, data in blocks], np.uint64)
        self._by_block = np.full(len(blocks), _FAR, np.uint64)
        at = 0
        for number, (start, data) in enumerate(blocks):
            if data.flags.writeable:
                shift = np.uint64((at - start) % 2**64)
                self._by_block[number] = shift
                if self._shifts is not None:
                    page = (start - self._first) // _PAGE
                    self._shifts[page : page + len(data) // _PAGE] = shift
                at += len(data)

    def locate(self, addresses: U64) -> U64 | None:
        """See `Memory.locate`."""
        if self._shifts is not None:
            page = addresses - np.uint64(self._first)
            page >>= np.uint64(_PAGE_BITS)
            if int(page.max()) >= len(self._shifts):
                return None
            where = self._shifts[page]
        else:
            after = np.searchsorted(self._starts, addresses, "right")
            if not int(after.min()) or (addresses >= self._ends[after - 1]).any():
                return None
            where = self._by_block[after - 1]
        where += addresses
        if int(np.bitwise_or.reduce(where)) & 7:
            return None
        where >>= np.uint64(3)
        return where if int(where.max()) < len(self.words) else None


class Memory:
    """Arrays of bytes at addresses that do not overlap.

    A read-only array (zeros, or a view of a mapped file) is copied when it is first written to.
    ``flat`` is the array that the writable ones are parts of, in order of address and without gaps,
    if there is one: a batch of words in it takes one step, however many blocks it is spread over.
    """

    def __init__(self, blocks: Iterable[tuple[int, U8]], flat: U8 | None = None) -> None:
        self.blocks = sorted(blocks, key=lambda block: block[0])
        self._starts = np.array([start for start, _ in self.blocks], np.uint64)
        self._sizes = np.array([len(data) for _, data in self.blocks], np.uint64)
        self._flat = None if flat is None else _Flat(self.blocks, flat)

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
        if len(used) > _MANY:
            order = np.argsort(index, kind="stable")
            cuts = np.searchsorted(index[order], used).tolist()
            for number, rows in zip(used, np.split(order, cuts[1:]), strict=True):
                yield int(number), rows, offset[rows].astype(np.int64)
            return
        for number in used:
            rows = np.arange(len(addresses)) if len(used) == 1 else np.flatnonzero(index == number)
            yield int(number), rows, offset[rows].astype(np.int64)

    @property
    def flat_words(self) -> int:
        """How many words ``flat`` has."""
        return 0 if self._flat is None else len(self._flat.words)

    def locate(self, addresses: U64) -> U64 | None:
        """The numbers of words in ``flat``; None unless all of them lie there, and on words."""
        if self._flat is None or not len(addresses):
            return None
        return self._flat.locate(addresses)

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
        if width == 8 and self._flat is not None:
            where = self.locate(addresses)
            if where is not None:
                found: U64 = self._flat.words[where]
                return found
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
        if width == 8 and self._flat is not None:
            where = self.locate(addresses)
            if where is not None:
                self._flat.words[where] = values
                return
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

    def joined(self, blocks: Iterable[tuple[int, U8]]) -> Memory:
        """The same arrays, and more of them."""
        more = list(blocks)
        return Memory([*self.blocks, *((at, data.copy()) for at, data in more)]) if more else self

    def make_writable(self, chosen: Callable[[int], bool]) -> None:
        """Copy what cannot be written to, zeros excepted, where ``chosen`` wants the start."""
        for number, (start, data) in enumerate(self.blocks):
            if not data.flags.writeable and not is_zeros(data) and chosen(start):
                self._writable(number)

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
