"""What modules own in an adopted process: words, mappings and permissions unknown to ld.so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from spidl.link.actions import Action, Protect, SetThread, ThreadCall
from spidl.link.link import Link
from spidl.link.memory import U8, U64, Memory
from spidl.link.phases import LOAD, PROTECT
from spidl.link.pipeline import Registered
from spidl.link.space import CopyRun, Mapping

ARCH_SET_FS = 0x1002


def module_mappings(link: Link) -> list[Mapping]:
    """What passes other than an object's main load pass mapped."""
    main = {d.label: _main_module(link.pipelines[d.number].passes(LOAD)) for d in link.objects}
    return [m for m in link.space.mappings if m.by.module != main.get(m.by.dso)]


def module_protections(link: Link) -> list[Action]:
    """Permissions from passes other than an object's main protect pass, which ld.so mirrors."""
    main = {d.label: _main_module(link.pipelines[d.number].passes(PROTECT)) for d in link.objects}
    return [
        Protect(p.start, p.length, p.protection)
        for p, by in link.space.protections
        if by.module != main.get(by.dso)
    ]


def _main_module(passes: Sequence[Registered[Any]]) -> str | None:
    return next((p.module for p in passes if p.strong), None)


def thread_pointer(calls: Sequence[SetThread]) -> int:
    """The first thread's pointer, 0 where none is set."""
    for call in calls:
        if call.call is ThreadCall.ARCH_PRCTL and call.arguments[0] == ARCH_SET_FS:
            return call.arguments[1]
    return 0


def mirror_owned(link: Link, memory: Memory, pointer: int) -> None:
    """Repeat owned writes where ld.so had copied the memory before: thread-locals, COPY targets."""
    areas = [
        (dso.bias + dso.file.tls.vaddr, dso.file.tls.filesz, pointer - dso.tls.offset)
        for dso in link.objects
        if dso.file.tls is not None and dso.tls is not None and pointer
    ]
    areas += [
        (write.origin, len(write.content), write.address)
        for write in link.space.writes
        if isinstance(write, CopyRun) and write.origin
    ]
    for address, content in _owned(link) if areas else ():
        for start, size, copy in areas:
            if start <= address and address + len(content) <= start + size:
                memory.write_bytes(copy + address - start, content)


def _owned(link: Link) -> Iterator[tuple[int, U8]]:
    """(address, bytes) of every write that a module answers for, or that ld.so has not made."""
    apart = {dso.label for dso in link.apart}
    for write in link.space.writes:
        if isinstance(write, CopyRun):
            if not write.origin:
                yield write.address, write.content
            continue
        rows = write.owner >= 0 if write.by.dso not in apart else np.ones(len(write.values), bool)
        for row in np.flatnonzero(rows).tolist():
            value: U64 = write.values[row : row + 1].astype("<u8")
            yield int(write.addresses[row]), value.view(np.uint8)[: write.width]
