"""Filters that wait for the program's entry: who enters it goes through boot instead."""

from __future__ import annotations

import pytest

from spidl.diagnostics import LinkError
from spidl.link.actions import Action, Call, Filter, Jump
from spidl.targets.exec.late import through_boot

ENTRY, LATE = 0x40_0000, 0x50_0000
WAITING = Filter(bytes(8), 1, ENTRY)


def test_without_such_a_filter_nothing_changes() -> None:
    actions: list[Action] = [Filter(bytes(8)), Call(ENTRY), Jump(ENTRY)]
    assert through_boot(actions, LATE) == actions


def test_a_program_that_boot_enters() -> None:
    assert through_boot([WAITING, Jump(ENTRY, 1, 2)], LATE) == [WAITING, Jump(LATE, 1, 2)]


def test_a_program_that_its_linker_enters() -> None:
    assert through_boot([WAITING, Jump(0x1234, ENTRY)], LATE) == [WAITING, Jump(0x1234, LATE)]


@pytest.mark.parametrize(
    "actions",
    [
        [WAITING, Jump(0x1234, 0x5678)],
        [WAITING, Filter(bytes(8), 0, ENTRY + 1), Jump(ENTRY)],
    ],
)
def test_a_filter_that_waits_for_nothing(actions: list[Action]) -> None:
    with pytest.raises(LinkError) as caught:
        through_boot(actions, LATE)
    assert caught.value.code == "exec/no-entry"
