"""The dynamic string table, .dynstr."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spidl.diagnostics import LinkError
from spidl.elf.hashes import name_hashes
from spidl.elf.reader import Reader
from spidl.elf.tables import Bytes


@dataclass(frozen=True, eq=False, slots=True)
class StringTable:
    """Strings by their offset in bytes.  The table need not end with a NUL, each string must."""

    reader: Reader
    data: Bytes

    def get(self, offset: int, limit: int | None = None) -> str:
        """The string at an offset; bytes that are not UTF-8 become surrogates.

        Raises LinkError ``parse/bad-string`` outside the table, where no NUL ends the string, and
        where it is longer than ``limit`` bytes.
        """
        size = len(self.data)
        if not 0 <= offset < size:
            raise self._bad(offset, "lies outside the string table")
        stop = size if limit is None else min(size, offset + limit + 1)
        end, step = offset, 128
        while end < stop:
            found = self.data[end : min(end + step, stop)].tobytes().find(b"\0")
            if found >= 0:
                return self.data[offset : end + found].tobytes().decode(errors="surrogateescape")
            end, step = end + step, 2 * step
        raise self._bad(
            offset, "is not ended by a NUL" if stop == size else f"is longer than {limit} bytes"
        )

    def hashes(self, starts: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """`name_hash` of the strings at many offsets; errors as `get`."""
        if not len(starts):
            return np.zeros(0, dtype=np.uint64)
        nuls = np.flatnonzero(self.data == 0)
        bad = np.flatnonzero(starts > (nuls[-1] if len(nuls) else -1))
        if len(bad):
            why = "lies outside the string table or is not ended by a NUL"
            raise self._bad(int(starts[bad[0]]), why).with_note(f"it names symbol {bad[0]}")
        return name_hashes(self.data, starts, nuls)

    def _bad(self, offset: int, why: str) -> LinkError:
        return self.reader.error(
            "bad-string",
            f"the string at offset {offset:#x} {why} (of {len(self.data):#x} bytes)",
            table="DT_STRTAB",
        )
