"""Symbols by name and version: their hashes as columns, their names when somebody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import overload

import numpy as np
import numpy.typing as npt

from spidl.elf.hashes import name_hash, name_hashes

Key = tuple[str, str | None]
"""A symbol's name and version; None for a symbol without one."""
Hashes = npt.NDArray[np.uint64]


class Keys(Sequence[Key]):
    """Symbols of a summary, in its order.

    ``names`` and ``versions`` are `spidl.elf.hashes.name_hash` of each, 0 for no version.  A link
    compares these; the names are for people, and ``read`` tells them when one is asked for.
    """

    def __init__(self, names: Hashes, versions: Hashes, read: Callable[[], Sequence[Key]]) -> None:
        self.names = names
        self.versions = versions
        self._read = read

    @classmethod
    def of(cls, keys: Iterable[Key]) -> Keys:
        """The same with the hashes, which keys that have them keep."""
        if isinstance(keys, Keys):
            return keys
        known = tuple(keys)
        versions = {version: _hash(version) for version in {version for _, version in known}}
        return cls(
            _hashes([name for name, _ in known]),
            np.array([versions[version] for _, version in known], dtype=np.uint64),
            lambda: known,
        )

    @cached_property
    def _keys(self) -> Sequence[Key]:
        return self._read()

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Key: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Key]: ...
    def __getitem__(self, index: int | slice) -> Key | Sequence[Key]:
        return self._keys[index]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


class Exports(Mapping[Key, int]):
    """Symbols with the class of each."""

    def __init__(self, symbols: Keys, classes: npt.NDArray[np.uint32]) -> None:
        self.symbols = symbols
        self.classes = classes

    @classmethod
    def of(cls, exports: Mapping[Key, int]) -> Exports:
        """The same with columns, which exports that have them keep."""
        if isinstance(exports, Exports):
            return exports
        classes = np.array(list(exports.values()), dtype=np.uint32)
        return cls(Keys.of(exports), classes)

    @cached_property
    def _dict(self) -> dict[Key, int]:
        return dict(zip(self.symbols, self.classes.tolist(), strict=True))

    def __getitem__(self, key: Key) -> int:
        return self._dict[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self.symbols)

    def __len__(self) -> int:
        return len(self.classes)


def _hash(version: str | None) -> int:
    return name_hash(version.encode(errors="surrogateescape")) if version else 0


def _hashes(names: Sequence[str]) -> Hashes:
    """`name_hash` of each name."""
    if not names:
        return np.zeros(0, np.uint64)
    text = ("\0".join(names) + "\0").encode(errors="surrogateescape")
    strings = np.frombuffer(text, np.uint8)
    nuls = np.flatnonzero(strings == 0)
    return name_hashes(strings, np.concatenate([[0], nuls[:-1] + 1]), nuls)
