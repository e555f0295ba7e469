"""``spidl cache`` verify, gc and clear.

An entry is removed under its lock and only if it is still the one that was looked at, so no link
that is being made is lost.  An image in use stays with the processes that run it.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from spidl.cache.private import is_private
from spidl.cache.store import (
    LOCK,
    NEW,
    Store,
    Stored,
    is_entry_name,
    is_leftover,
    remove_tree,
)
from spidl.cli.states import (
    DAMAGED,
    STALE,
    VALID,
    image_of,
    is_elsewhere,
    parse_size,
    program_of,
    size_text,
    state_of,
)
from spidl.cli.tables import plain, table, write, write_json
from spidl.diagnostics import LinkError

_DAY = 86400
_OBJECT = re.compile(r"(load|[0-9a-f]+)-[0-9a-f]+(\.[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Removal:
    """One thing that is to go, or went."""

    path: str
    what: str
    """The program, or what else it is."""
    why: str
    size: int
    entry: Stored | None = None
    """None for what has no lock."""


def verify(options: argparse.Namespace) -> int:
    """Hash every image again; 2 where one is damaged and stays.  Raises `LinkError`."""
    store = _own_store()
    checked, damaged, kept = 0, [], 0
    for stored in store.entries():
        if not is_entry_name(stored.name):
            continue
        checked += 1
        fault = _fault(stored)
        if fault is None:
            continue
        removal = _removal(stored, fault)
        done = options.repair and _remove(store, removal)
        kept += not done
        damaged.append((removal, done))
    if options.json:
        write_json({
            "folder": store.folder, "checked": checked,
            "damaged": [_json(removal) | {"removed": done} for removal, done in damaged],
        })  # fmt: skip
    else:
        lines = [] if not damaged else table(
            ("PROGRAM", "ENTRY", "", ""),
            ((r.what, r.path, r.why, "removed" if done else "") for r, done in damaged),
        )  # fmt: skip
        lines.append(f"{checked} checked, {len(damaged)} damaged")
        if kept:
            lines.append("They are not used: each is linked again. `--repair` removes them now.")
        write(lines)
    return 2 if kept else 0


def _fault(stored: Stored) -> str | None:
    """What is wrong with an entry, be it stale or not."""
    image = image_of(stored)
    if stored.kept is None:
        return stored.fault
    if image is None:
        return None
    try:
        with open(os.open(image, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        return f"the image cannot be read: {error.strerror}"
    return None if digest == stored.kept.digest else "the image's digest does not fit"


def gc(options: argparse.Namespace) -> int:
    """Remove what no start will use, what is too old, then the least recently used.

    Raises `LinkError` ``cli/usage``, ``cache/...``.
    """
    most = None
    if options.max_size is not None:
        most = parse_size(options.max_size)
        if most is None:
            raise LinkError("cli/usage", f"--max-size {options.max_size} is no size",
                            help="for instance 500M, 2G or 1000000")  # fmt: skip
    if options.max_age is not None and not options.max_age >= 0:
        raise LinkError("cli/usage", f"--max-age {options.max_age:g} is no number of days",
                        help="for instance 30")  # fmt: skip
    store = _own_store()
    useless, used = _sorted_out(store)
    removed, busy = [], []
    oldest = None if options.max_age is None else time.time() - options.max_age * _DAY
    total = sum(removal.size for removal in useless) + sum(r.size for _, r in used)

    def remove(removal: Removal) -> None:
        nonlocal total
        if _remove(store, removal):
            removed.append(removal)
            total -= removal.size
        else:
            busy.append(removal)

    for removal in useless:
        remove(removal)
    for when, removal in used:
        if oldest is not None and when < oldest:
            remove(_because(removal, "not used for long"))
        elif most is not None and total > most:
            remove(_because(removal, "least recently used"))
    return _tell(options, store, removed, busy, total)


def _because(removal: Removal, why: str) -> Removal:
    return Removal(removal.path, removal.what, why, removal.size, removal.entry)


def _sorted_out(store: Store) -> tuple[list[Removal], list[tuple[float, Removal]]]:
    """What no start will use, and the rest with its last use, the oldest first."""
    useless: list[Removal] = []
    used: list[tuple[float, Removal]] = []
    for stored in store.entries():
        if is_leftover(stored.folder):
            useless.append(Removal(stored.folder, "leftover", "never finished", stored.size))
        if not is_entry_name(stored.name):
            continue
        state = state_of(stored)
        # The next start would link it again all the same.
        if state.name == VALID and is_elsewhere(stored):
            useless.append(_removal(stored, "of another kernel or machine, not used for long"))
        elif state.name in (STALE, DAMAGED):
            useless.append(_removal(stored, f"{state.name}: {state.why}"))
        else:
            used.append((stored.used, _removal(stored, "")))
    used += [(when, Removal(path, "record of a file", "", size))
             for path, size, when in object_files(store)]  # fmt: skip
    used.sort(key=lambda item: item[0])
    return useless, used


def clear(options: argparse.Namespace) -> int:
    """Remove what Spidl has made in the cache folder, and the folders if that empties them."""
    store = _own_store()
    removed: list[Removal] = []
    busy: list[Removal] = []
    for stored in store.entries():
        if is_entry_name(stored.name) or is_leftover(stored.folder):
            removal = _removal(stored, "")
            (removed if _remove(store, removal) else busy).append(removal)
    for path, size, _ in object_files(store):
        removal = Removal(path, "record of a file", "", size)
        (removed if _remove(store, removal) else busy).append(removal)
    _remove_frame(store)
    return _tell(options, store, removed, busy, sum(r.size for r in busy))


def _remove_frame(store: Store) -> None:
    """Remove the lock file and the folders, unless a link is being made."""
    if not os.path.isdir(store.images):
        return
    with store.claim() as idle:
        if not idle:
            return
        for name in os.listdir(store.images):
            if name.startswith(NEW):
                remove_tree(os.path.join(store.images, name))
        with suppress(OSError):
            os.unlink(os.path.join(store.folder, LOCK))
        for folder in (store.images, os.path.join(store.folder, "objects"), store.folder):
            with suppress(OSError):  # something of the user's is in it
                os.rmdir(folder)


def object_files(store: Store) -> Iterator[tuple[str, int, float]]:
    """Path, bytes on disk and last use of the records that all links share."""
    if not os.path.isdir(os.path.join(store.folder, "objects")):
        return
    from spidl.cache.objects import Objects

    for path, size, used in Objects(store.folder).entries():
        if _OBJECT.fullmatch(os.path.basename(path)):
            yield path, size, used


def _own_store() -> Store:
    """The user's cache.  Raises `LinkError` ``cache/not-private`` where it is somebody else's."""
    store = Store()
    for folder in (store.folder, store.images):
        if os.path.lexists(folder) and not is_private(folder):
            store.prepare()
    return store


def _removal(stored: Stored, why: str) -> Removal:
    what = "?" if stored.kept is None else program_of(stored.kept)
    return Removal(stored.folder, what, why, stored.size, stored)


def _remove(store: Store, removal: Removal) -> bool:
    """Remove it; False where it is being linked, is another one by now, or cannot be removed."""
    if removal.entry is None:
        remove_tree(removal.path)
        return not os.path.lexists(removal.path)
    with store.claim(removal.entry.name if is_entry_name(removal.entry.name) else None) as idle:
        if not idle or not _is_same(removal.entry):
            return False
        # Out of the way in one step: whoever looks meanwhile finds no half of it.
        aside = os.path.join(store.images, f"{NEW}{os.urandom(8).hex()}")
        try:
            os.rename(removal.path, aside)
        except OSError:
            return False
        remove_tree(aside)
    return True


def _is_same(stored: Stored) -> bool:
    """Whether a folder still holds the entry that was looked at."""
    try:
        used = os.stat(os.path.join(stored.folder, "entry")).st_mtime
    except OSError:
        return stored.kept is None
    # A start touches the file, a link replaces it: both make it one that is in use.
    return used == stored.used


def _json(removal: Removal) -> dict[str, object]:
    return {"path": removal.path, "what": removal.what, "why": removal.why or None,
            "size": removal.size}  # fmt: skip


def _tell(
    options: argparse.Namespace, store: Store, removed: list[Removal], busy: list[Removal],
    left: int,
) -> int:  # fmt: skip
    freed = sum(removal.size for removal in removed)
    if options.json:
        write_json({
            "folder": store.folder, "removed": [_json(r) for r in removed], "freed": freed,
            "kept": [_json(r) for r in busy], "size": left,
        })  # fmt: skip
        return 0
    shown = [r for r in removed if r.why]
    lines = table(("REMOVED", "SIZE", ""), ((r.what, size_text(r.size), r.why) for r in shown),
                  numbers="SIZE") if shown else []  # fmt: skip
    lines += [f"left: {plain(r.what)} is in use just now, or cannot be removed" for r in busy]
    lines.append(f"{plain(store.folder)}: {len(removed)} removed, {size_text(freed)} freed, "
                 f"{size_text(left)} left")  # fmt: skip
    write(lines)
    return 0
