"""Comparing the memory of runs that have not touched the same pages."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from spidl.link.memory import U8, is_zeros, zeros
from spidl.targets.exec.differ import differing, memories_of, same_shape
from spidl.targets.exec.snapshot import Region

PAGE = 4096
NONE = np.zeros(0, np.uint8)


def run(*regions: tuple[int, U8]) -> SimpleNamespace:
    """A snapshot's memory, whose own content is in one array as a capture leaves it."""
    own = np.concatenate([content for _, content in regions if content.flags.writeable] or [NONE])
    placed, at = [], 0
    for start, content in regions:
        if content.flags.writeable:
            content = own[at : at + len(content)]
            at += len(content)
        placed.append(Region(start, content))
    return SimpleNamespace(regions=tuple(placed), own=own)


def filled(pages: int, value: int) -> U8:
    return np.full(pages * PAGE, value, np.uint8)


def test_zeros_in_all_runs_stay_zeros() -> None:
    runs = [run((0, zeros(4 * PAGE)), (4 * PAGE, filled(1, 7))) for _ in range(3)]
    memories = memories_of(runs)  # type: ignore[arg-type]
    assert all(is_zeros(memory.blocks[0][1]) for memory in memories)
    assert not len(differing(memories))


def test_touched_in_one_run_only() -> None:
    touched = filled(1, 0)
    touched[8] = 5
    some = run((0, zeros(2 * PAGE)), (2 * PAGE, touched), (3 * PAGE, zeros(PAGE)))
    none = run((0, zeros(4 * PAGE)))
    memories = memories_of([some, none, none])  # type: ignore[list-item]
    assert [[len(data) for _, data in m.blocks] for m in memories] == [[2 * PAGE, PAGE, PAGE]] * 3
    assert differing(memories).tolist() == [2 * PAGE + 8]


def test_a_view_of_a_file_is_compared_only_where_a_run_has_its_own() -> None:
    file = np.frombuffer(bytes(range(256)) * 48, np.uint8)
    touched = file[PAGE : 2 * PAGE].copy()
    touched[16] ^= 1
    some = run((0, file[:PAGE]), (PAGE, touched), (2 * PAGE, file[2 * PAGE :]))
    none = run((0, file))
    memories = memories_of([none, some, none])  # type: ignore[list-item]
    assert differing(memories).tolist() == [PAGE + 16]
    for memory in memories:
        assert [data.flags.writeable for _, data in memory.blocks] == [False, True, False]
        assert memory.read_bytes(0, PAGE).tolist() == file[:PAGE].tolist()
    memories[0].write_words(np.array([PAGE + 8, 16], np.uint64), np.array([1, 2], np.uint64))
    assert memories[2].read_words(np.array([PAGE + 8, 16], np.uint64)).tolist() == [
        int.from_bytes(file[8:16].tobytes(), "little"),
        int.from_bytes(file[16:24].tobytes(), "little"),
    ]


def test_shape_is_what_is_covered() -> None:
    whole = run((0, filled(4, 1)))
    parts = run((0, filled(1, 1)), (PAGE, zeros(3 * PAGE)))
    assert same_shape([whole, parts])  # type: ignore[list-item]
    assert not same_shape([whole, run((0, filled(3, 1)))])  # type: ignore[list-item]
    assert not same_shape([parts, run((0, filled(1, 1)), (2 * PAGE, zeros(3 * PAGE)))])  # type: ignore[list-item]
