"""From a finished link to a linked image: adopt the run-time linker, or start directly."""

from __future__ import annotations

import os
from collections.abc import Iterable
from enum import Enum

import numpy as np

from spidl.diagnostics import Place, Refusal
from spidl.link.actions import (
    Action,
    CheckAuxv,
    FileIdentity,
    Identity,
    MapFile,
    Patch,
    Protect,
    Protection,
    Segment,
)
from spidl.link.image import LinkedImage, Pages
from spidl.link.link import Link
from spidl.link.memory import U8, Memory
from spidl.link.runtime import RUNTIME
from spidl.link.space import page_up
from spidl.targets.exec.adopt import Adopted, adopt
from spidl.targets.exec.area import AREA_SIZE
from spidl.targets.exec.boot import load_boot
from spidl.targets.exec.entries import rewrite
from spidl.targets.exec.guards import input_checks, machine_checks
from spidl.targets.exec.late import through_boot
from spidl.targets.exec.opening import through_gate, without_gate
from spidl.targets.exec.origin import find_debug
from spidl.targets.exec.owned import module_mappings, module_protections
from spidl.targets.exec.selfexe import answer_for_program, refuse_own_way

_EXTRA_ROOM = 1 << 20
"""Bytes between the last mapping and boot's code, for strings and thunks."""


class Layout(Enum):
    """Where read-only and text pages come from at start."""

    SHARED = "shared"
    """The original files: the page cache is shared with every other program."""
    COPY = "copy"
    """The image itself: fewer calls at start, a bigger file."""


def build_image(link: Link, layout: Layout = Layout.SHARED) -> LinkedImage:
    """The image of a link that has run all its phases."""
    _refuse_privileged(link)
    refuse_own_way(link, load_boot())
    if RUNTIME in link.facts:
        return _adopted_image(link, adopt(link, link.facts[RUNTIME]), layout)
    return _direct_image(link, layout)


def _refuse_privileged(link: Link) -> None:
    """set-user-ID, set-group-ID and file capabilities belong to the file, not to an image of it."""
    path = link.root.path
    status = link.root.file.stat
    assert status is not None
    special = status.st_mode & 0o6000
    try:
        capable = bool(os.getxattr(path, "security.capability"))
    except OSError:
        capable = False
    if special or capable:
        raise Refusal(
            "exec/privileged",
            f"{link.root.name} runs with privileges of its file "
            f"({'file capabilities' if capable else 'set-user-ID or set-group-ID'})",
            place=Place(path),
            help="an image cannot have them; the program starts the plain way",
        )


def _adopted_image(link: Link, adopted: Adopted, layout: Layout) -> LinkedImage:
    snapshot, memory = adopted.snapshot, adopted.memory
    runtime = link.facts[RUNTIME]
    files, copied = _files(link, adopted, layout)
    area, debug = adopted.area, find_debug(link, memory)
    boot_at = adopted.data.start + AREA_SIZE
    answers = answer_for_program(link, memory, area.end, load_boot(), boot_at)
    area.add(answers.code)
    added = {m.start: m.protection for m in module_mappings(link)}
    opening = through_gate(link, memory, link.actions, load_boot(), boot_at)
    last = through_boot(opening, boot_at + load_boot().late)
    if adopted.spaces is not None:
        last = adopted.spaces.enter(last, memory, adopted.data)
    pages = [
        Pages(start, data, added[start] if start in added else snapshot.protection(start))
        for start, data in memory.blocks
    ]
    pages += copied
    files, pages = rewrite(files, pages, answers.entries, link)
    for some, protection in ((area, Protection.EXEC), (adopted.data, Protection.WRITE)):
        if some.content:
            pages.append(Pages(some.start, some.pages(), Protection.READ | protection))
    written = [*(w.address for w in adopted.words), *(c.slot for c in adopted.resolvers)]
    pages, protects = _open_for_words(pages, written)
    root = link.root
    assert root.file.phdr_vaddr is not None
    identity = Identity(
        phdr=root.bias + root.file.phdr_vaddr,
        phnum=len(root.file.phdrs),
        base=runtime.linker.start,
        entry=root.bias + root.file.entry,
        path=root.path.encode(errors="surrogateescape"),
        code=_extent(link, Protection.EXEC),
        data=_extent(link, Protection.WRITE),
    )
    actions: list[Action] = [identity]
    if adopted.words:
        actions.append(Patch(adopted.words))
    actions += adopted.calls
    actions += adopted.resolvers
    actions += protects
    actions += module_protections(link)
    actions += last
    mapped = {file.path.decode(errors="surrogateescape") for file in files}
    return LinkedImage(
        program=root.path,
        pages=tuple(pages),
        files=tuple(files),
        checks=(*machine_checks(snapshot), *input_checks(link, mapped)),
        actions=tuple(actions),
        inputs=dict(link.inputs),
        absent=tuple(link.absent),
        policy=any(module.policy for module in link.modules),
        debug=debug,
        boot=boot_at,
    )


def _files(link: Link, adopted: Adopted, layout: Layout) -> tuple[list[MapFile], list[Pages]]:
    """Unchanged file pages: to map again from the files, or copied into the image."""
    by_inode = {
        (dso.identity.device, dso.identity.inode): dso
        for dso in link.objects
        if dso.identity is not None and dso.namespace is link.main
    }
    for shell in adopted.shown.shells:
        if shell.hides is not None:
            by_inode[shell.placement.device, shell.placement.inode] = shell.hides
    segments: dict[int, list[Segment]] = {}
    copied: list[Pages] = []
    for vma in adopted.snapshot.files:
        if vma.protection == Protection.NONE:
            continue  # holes between segments
        dso = by_inode.get((vma.device, vma.inode))
        length = vma.end - vma.start
        if dso is not None and layout is Layout.SHARED:
            segments.setdefault(dso.number, []).append(
                Segment(vma.start, length, vma.offset, vma.protection)
            )
            continue
        data = adopted.shown.shell_at(vma.start).final if dso is None else dso.file.data
        copied.append(_copy(vma.start, length, vma.offset, vma.protection, data))
    files = []
    for number, parts in segments.items():
        dso = link.objects[number]
        assert dso.identity is not None
        files.append(MapFile(dso.path.encode(errors="surrogateescape"), dso.identity, tuple(parts)))
    return files, copied


def _copy(start: int, length: int, offset: int, protection: Protection, data: U8) -> Pages:
    content = np.zeros(length, np.uint8)
    part = data[offset : offset + length]
    content[: len(part)] = part
    return Pages(start, content, protection)


def _open_for_words(pages: list[Pages], words: Iterable[int]) -> tuple[list[Pages], list[Action]]:
    """Read-only pages that boot must write to are mapped writable and protected afterwards."""
    addresses = np.array(sorted(words), np.uint64)
    opened: list[Pages] = []
    protects: list[Action] = []
    for region in pages:
        low, high = np.searchsorted(addresses, np.array([region.address, region.end], np.uint64))
        if low == high or region.protection & Protection.WRITE:
            opened.append(region)
            continue
        opened.append(Pages(region.address, region.content, region.protection | Protection.WRITE))
        protects.append(Protect(region.address, len(region.content), region.protection))
    return opened, protects


def _extent(link: Link, wanted: Protection) -> tuple[int, int]:
    """First and last address of the program's segments with a permission."""
    own = [m for m in link.space.mappings if m.by.dso == link.root.label and m.protection & wanted]
    if not own:
        return link.root.start, link.root.end
    return min(m.start for m in own), max(m.end for m in own)


def _direct_image(link: Link, layout: Layout) -> LinkedImage:
    """A program without a C library: our own writes are all there is."""
    by_name = {dso.label: dso for dso in link.objects}
    memory: Memory = link.space.memory
    pages: list[Pages] = []
    files: dict[str, tuple[FileIdentity, list[Segment]]] = {}
    for mapping in link.space.mappings:
        dso = by_name[mapping.by.dso]
        content = memory.read_bytes(mapping.start, mapping.length)
        written = bool(mapping.protection & Protection.WRITE) or not np.array_equal(
            content, mapping.initial()
        )
        if mapping.path and not written and layout is Layout.SHARED:
            assert dso.identity is not None
            files.setdefault(dso.path, (dso.identity, []))[1].append(
                Segment(mapping.start, mapping.length, mapping.offset, mapping.protection)
            )
            continue
        pages.append(Pages(mapping.start, content, mapping.protection))
    protects: list[Action] = [
        Protect(p.start, p.length, p.protection) for p, _ in link.space.protections
    ]
    root = link.root
    phdr = root.file.phdr_vaddr
    identity = Identity(
        phdr=root.bias + (phdr or 0), phnum=len(root.file.phdrs) if phdr else 0, base=0,
        entry=root.bias + root.file.entry, path=root.path.encode(errors="surrogateescape"),
        code=_extent(link, Protection.EXEC), data=_extent(link, Protection.WRITE),
    )  # fmt: skip
    mapped = tuple(MapFile(p.encode(errors="surrogateescape"), i, tuple(s))
                   for p, (i, s) in files.items())  # fmt: skip
    boot_at = page_up(link.space.top) + _EXTRA_ROOM
    actions = through_boot(without_gate(link.actions), boot_at + load_boot().late)
    return LinkedImage(
        program=root.path,
        pages=tuple(pages),
        files=mapped,
        checks=(CheckAuxv(23, 0), *input_checks(link, set(files))),
        actions=(identity, *protects, *actions),
        inputs=dict(link.inputs),
        absent=tuple(link.absent),
        policy=any(module.policy for module in link.modules),
        debug=0,
        boot=boot_at,
    )
