"""Filters that wait for the program's entry: the way there leads through boot once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from spidl.diagnostics import LinkError
from spidl.link.actions import Action, Filter, Jump


def through_boot(actions: Sequence[Action], late: int) -> list[Action]:
    """The actions with the program's entry replaced by ``late``, the address of `spidl_late`, if a
    filter waits for it.

    glibc's linker is given the entry in a register (RTLD_START in sysdeps/x86_64/dl-machine.h) and
    goes there when constructors have run; any other program is entered by boot.

    Raises `LinkError` ``exec/no-entry``.
    """
    entries = {action.entry for action in actions if isinstance(action, Filter)} - {0}
    if not entries:
        return list(actions)
    entry = min(entries)
    found: list[Action] = []
    for action in actions:
        if isinstance(action, Jump):
            if len(entries) > 1 or entry not in (action.address, action.rax):
                raise LinkError(
                    "exec/no-entry",
                    f"a filter waits for {entry:#x}, where the program is not entered",
                    help="this is a fault of the module that brings the filter",
                )
            if action.rax == entry:
                found.append(replace(action, rax=late))
            else:
                found.append(replace(action, address=late))
        else:
            found.append(action)
    return found
