"""Capture runs ahead of their time: a second process makes them while this one relocates.

What a run finds depends on the addresses that load chose and on nothing that later phases do.  So
the two lazy runs begin when load is over.  Adoption takes them if what it wants is exactly what was
begun, and else makes its own.  Their errors wait until adoption asks.
"""

from __future__ import annotations

import contextlib
import ctypes
import marshal
import mmap
import os
import signal
import struct
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from spidl.diagnostics import LinkError, Place, Refusal
from spidl.link.actions import Protection, ThreadCall
from spidl.link.facts import Fact
from spidl.link.link import Link
from spidl.link.memory import U8, is_zeros, zeros
from spidl.link.runtime import EXPECTED_RUNTIME
from spidl.targets.exec.capture import capture
from spidl.targets.exec.cpu import time_stamp
from spidl.targets.exec.plans import capture_plans
from spidl.targets.exec.shown import Shown, shows_more
from spidl.targets.exec.snapshot import (
    Anchors,
    CapturePlan,
    Region,
    Snapshot,
    ThreadCallRecord,
    Vma,
)

_PR_SET_PDEATHSIG = 1
_HEAD = struct.Struct("=QQ")
"""Where in the shared memory the message about a run is: offset and length in bytes."""
_PRIVILEGED = 0o6000
"""set-user-ID and set-group-ID: there will be no image of such a program."""
_RUNS = 2
"""The lazy ones: whether the third binds every slot is known after relocate."""


class Ahead:
    """The runs that were begun for one link; leaving the context ends what is left of them."""

    def __init__(self) -> None:
        self.began = 0
        """The time-stamp counter before the first run."""
        self._plans: list[CapturePlan] = []
        self._buffers: list[int] = []
        self._pipe = -1
        self._worker = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._worker:
            # What it traces dies with it (PTRACE_O_EXITKILL, PR_SET_PDEATHSIG).
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._worker, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._worker, 0)
            self._worker = 0
        self._close()

    def begin(self, link: Link) -> None:
        """Begin the lazy runs of a link where it is known by now what they are."""
        runtime, file = link.facts.get(EXPECTED_RUNTIME, None), link.root.file
        if runtime is None or file.stat is None or file.phdr_vaddr is None:
            return
        if any(module.judges for module in link.modules):
            return  # IFUNC resolvers run in a capture
        if file.stat.st_mode & _PRIVILEGED or shows_more(link, runtime):
            return
        if self.start(capture_plans(link, runtime, Shown((), ()))[:_RUNS]):
            link.facts[AHEAD] = self

    def start(self, plans: Sequence[CapturePlan]) -> bool:
        """Let a second process make these runs in turn; False where it had better not."""
        if not _may_fork():
            return False
        self._plans = list(plans)
        try:
            self.began = time_stamp()
            self._buffers = [os.memfd_create("spidl-capture", os.MFD_CLOEXEC) for _ in plans]
            self._pipe, output = os.pipe2(os.O_CLOEXEC)
            try:
                self._worker = os.fork()
                if not self._worker:
                    _work(self._plans, self._buffers, output)
            finally:
                os.close(output)
        except OSError:
            self._close()
            return False
        return True

    def fits(self, plans: Sequence[CapturePlan]) -> bool:
        """Whether these are the runs that were begun."""
        return self._pipe >= 0 and self._plans == list(plans)

    def results(self) -> list[Snapshot] | None:
        """The runs' results, when they have come; None where the worker is lost.

        Raises LinkError and Refusal as `capture`.
        """
        snapshots = []
        try:
            with os.fdopen(self._pipe, "rb") as pipe:
                self._pipe = -1
                for plan, descriptor in zip(self._plans, self._buffers, strict=True):
                    head = pipe.read(_HEAD.size)
                    if not head:
                        return None
                    size, length = _HEAD.unpack(head)
                    message = marshal.loads(os.pread(descriptor, length, size))
                    snapshots.append(_decode(plan, message, _map(descriptor, size)))
        except (OSError, ValueError, EOFError, struct.error):
            return None
        return snapshots

    def _close(self) -> None:
        for descriptor in [self._pipe, *self._buffers]:
            if descriptor >= 0:
                os.close(descriptor)
        self._pipe, self._buffers = -1, []


def _may_fork() -> bool:
    """Whether there is a processor for it, and no thread: that might hold any lock forever."""
    return len(os.sched_getaffinity(0)) > 1 and len(os.listdir("/proc/self/task")) == 1


AHEAD: Fact[Ahead] = Fact("ahead")


def _work(plans: Sequence[CapturePlan], buffers: Sequence[int], output: int) -> None:
    """The second process: make the runs, write their results, and end."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for plan, descriptor in zip(plans, buffers, strict=True):

            def allocate(size: int, descriptor: int = descriptor) -> U8:
                try:
                    os.ftruncate(descriptor, size)
                    return _map(descriptor, size)
                except OSError as error:  # a limit of ours, no fault of the run
                    raise MemoryError from error

            size = 0
            try:
                snapshot = capture(plan, allocate)
                size = len(snapshot.own)
                message = _encode(snapshot)
            except LinkError as error:
                message = _encode_error(error)
            # Not through the pipe, which would hold the worker up until somebody reads it.
            length = os.pwrite(descriptor, marshal.dumps(message), size)
            os.write(output, _HEAD.pack(size, length))
            if len(message) == 1:
                break
    finally:
        os._exit(0)


def _map(descriptor: int, size: int) -> U8:
    if not size:
        return np.zeros(0, np.uint8)
    mapping = mmap.mmap(descriptor, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
    return np.frombuffer(mapping, np.uint8)


# -- messages: tuples of numbers and strings, which marshal makes nothing else of -----------------


def _encode(snapshot: Snapshot) -> tuple[Any, ...]:
    """A snapshot without its plan and its own content, which both processes have."""
    numbers = {id(vma): number for number, vma in enumerate(snapshot.vmas)}
    views = [(snapshot.own, -1)]
    views += [
        (p.content, i) for i, p in enumerate(snapshot.plan.placements) if p.content is not None
    ]
    a = snapshot.anchors
    return (
        [
            (v.start, v.end, int(v.protection), v.shared, v.offset, v.device, v.inode, v.path)
            for v in snapshot.vmas
        ],
        [numbers[id(vma)] for vma in snapshot.files],
        [(r.address, len(r.content), *_source(r.content, views)) for r in snapshot.regions],
        [(int(record.call), record.arguments) for record in snapshot.calls],
        tuple(getattr(a, name) for name in Anchors.__slots__),
        snapshot.registers,
        snapshot.arena_end,
        snapshot.vdso,
        snapshot.unexpected,
    )


def _source(content: U8, views: list[tuple[U8, int]]) -> tuple[int, int]:
    """(number of a placement, -1 for the buffer, -2 for zeros; offset in bytes)."""
    if is_zeros(content):
        return -2, 0
    at = content.ctypes.data
    for whole, number in views:
        offset = at - whole.ctypes.data
        if 0 <= offset <= len(whole) - len(content):
            return number, offset
    raise ValueError("a region of unknown origin")


def _decode(plan: CapturePlan, message: tuple[Any, ...], buffer: U8) -> Snapshot:
    if len(message) == 1:
        raise _decode_error(*message[0])
    vmas, files, regions, calls, anchors, registers, arena_end, vdso, unexpected = message
    protections = [Protection(bits) for bits in range(8)]
    every = [Vma(start, end, protections[bits], *rest) for start, end, bits, *rest in vmas]
    sources = {i: p.content for i, p in enumerate(plan.placements)} | {-1: buffer}
    return Snapshot(
        plan=plan,
        vmas=tuple(every),
        files=tuple(every[number] for number in files),
        regions=tuple(
            Region(address, zeros(size) if (whole := sources.get(number)) is None
                   else whole[offset : offset + size])
            for address, size, number, offset in regions
        ),
        own=buffer,
        calls=tuple(ThreadCallRecord(ThreadCall(call), given) for call, given in calls),
        anchors=Anchors(*anchors),
        registers=registers,
        arena_end=arena_end,
        vdso=vdso,
        unexpected=unexpected,
    )  # fmt: skip


def _encode_error(error: LinkError) -> tuple[Any, ...]:
    d = error.diagnostic
    place = d.place and tuple(getattr(d.place, name) for name in Place.__slots__)
    return ((isinstance(error, Refusal), d.code, d.message, place, d.notes, d.help),)


def _decode_error(
    refusal: bool,
    code: str,
    message: str,
    place: tuple[Any, ...] | None,
    notes: tuple[str, ...],
    help: str | None,
) -> LinkError:
    kind = Refusal if refusal else LinkError
    where = None if place is None else Place(*place)
    return kind(code, message, place=where, notes=notes, help=help)
