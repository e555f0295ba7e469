"""``spidl cache``: look at what is kept (list, info) and tend it (verify, gc, clear)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from spidl.cache.entry import Kept
from spidl.cache.store import Store, Stored, is_entry_name
from spidl.cli.states import (
    MISSING,
    age_text,
    image_of,
    libraries_of,
    options_of,
    program_of,
    size_text,
    state_of,
    state_of_input,
    time_text,
)
from spidl.cli.tables import plain, table, write, write_json
from spidl.cli.upkeep import clear, gc, object_files, verify
from spidl.session import Request, find_program, selected

_UNCHANGED = "unchanged"


def cache(options: argparse.Namespace) -> int:
    """Do what the action says.  Raises `LinkError` ``cache/...``, ``cli/usage``."""
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": _list, "info": _info, "verify": verify, "gc": gc, "clear": clear,
    }  # fmt: skip
    return actions[options.action](options)


def _list(options: argparse.Namespace) -> int:
    """All entries, the last used first."""
    store = Store()
    found = [stored for stored in store.entries() if is_entry_name(stored.name)]
    found.sort(key=lambda stored: -stored.used)
    objects = list(object_files(store))
    size = sum(stored.size for stored in found)
    shared = sum(size for _, size, _ in objects)
    if options.json:
        write_json({
            "folder": store.folder,
            "size": size + shared,
            "entries": [_summary(stored) for stored in found],
            "objects": {"count": len(objects), "size": shared},
        })  # fmt: skip
        return 0
    rows = []
    for stored in found:
        kept, state = stored.kept, state_of(stored)
        rows.append((
            "?" if kept is None else program_of(kept),
            "-" if kept is None else str(len(libraries_of(kept))),
            size_text(stored.size), age_text(stored.used), state.name,
            " ".join([*([] if kept is None else options_of(kept)), state.why]).strip(),
        ))  # fmt: skip
    lines = table(("PROGRAM", "LIBRARIES", "SIZE", "LAST USE", "STATE", ""), rows,
                  numbers="LIBRARIES SIZE")  # fmt: skip
    total = f"{plain(store.folder)}: {len(found)} kept, {size_text(size)}"
    if objects:
        total += f"; records of {len(objects)} files, {size_text(shared)}"
    write([*(lines if rows else []), total])
    return 0


def _summary(stored: Stored) -> dict[str, object]:
    kept, state = stored.kept, state_of(stored)
    return {
        "key": stored.name,
        "program": None if kept is None else program_of(kept),
        "options": [] if kept is None else options_of(kept),
        "libraries": None if kept is None else len(libraries_of(kept)),
        "image": image_of(stored),
        "size": stored.size,
        "last_use": time_text(stored.used),
        "state": state.name,
        "why": state.why or None,
    }


def _info(options: argparse.Namespace) -> int:
    """The entry that `spidl run` would use for the same words, whatever its state."""
    choice = selected(
        Request(find_program(options.program), tuple(options.extra), options.layout,
                options.config, tuple(options.settings))
    )  # fmt: skip
    store = Store(choice.cache)
    stored = store.look(choice.key)
    state = state_of(stored)
    if options.json:
        value: dict[str, object] = {
            "program": choice.program, "key": choice.key.name, "folder": store.place(choice.key),
            "image": image_of(stored), "state": state.name, "why": state.why or None,
        }  # fmt: skip
        if stored is not None and stored.kept is not None:
            value |= _details(stored, stored.kept)
        write_json(value)
    else:
        lines = [f"program   {plain(choice.program)}", f"state     {state.name}"]
        lines[-1] += f": {plain(state.why)}" if state.why else ""
        if state.name != MISSING:
            lines.append(f"entry     {plain(store.place(choice.key))}")
        if stored is not None and stored.kept is not None:
            lines += _detail_lines(stored, stored.kept)
        write(lines)
    return 0


def _details(stored: Stored, kept: Kept) -> dict[str, object]:
    return {
        "options": options_of(kept),
        "environment": _environment(kept),
        "linked": None if kept.written is None else time_text(kept.written[3] / 1e9),
        "last_use": time_text(stored.used),
        "size": stored.size,
        "sha256": kept.digest.hex() if kept.image else None,
        "boot_id": kept.boot,
        "libraries": len(libraries_of(kept)),
        "inputs": [
            {"path": given.path, "state": state_of_input(given), "absent": given.identity is None,
             "checked_by": "launcher" if given.front else "image"}
            for given in kept.inputs
        ],
    }  # fmt: skip


def _detail_lines(stored: Stored, kept: Kept) -> list[str]:
    lines = [f"image     {plain(image_of(stored) or 'none')}"]
    lines.append(f"size      {size_text(stored.size)}")
    if kept.written is not None:
        lines.append(f"linked    {time_text(kept.written[3] / 1e9)}")
    lines.append(f"last use  {age_text(stored.used)}")
    if kept.image:
        lines.append(f"sha256    {kept.digest.hex()}")
    lines += [f"option    {plain(option)}" for option in options_of(kept)]
    lines += [f"variable  {plain(variable)}" for variable in _environment(kept)]
    present = [given for given in kept.inputs if given.identity is not None]
    absent = len(kept.inputs) - len(present)
    lines += ["", f"{len(present)} files must be unchanged, {absent} paths must stay absent:"]
    for given in kept.inputs:
        what = state_of_input(given)
        if given.identity is not None or what != _UNCHANGED:
            lines.append(f"  {what:<9}  {plain(given.path)}")
    return lines


def _environment(kept: Kept) -> list[str]:
    """The variables in the key that steer the system's linker (launcher/key.c)."""
    texts = (os.fsdecode(text) for text in kept.key.split(b"\0"))
    steering = ("LD_", "MALLOC_", "GLIBC_TUNABLES=")
    return [text for text in texts if text.startswith(steering) and "=" in text]
