"""Adopting the run-time linker's state: plan the runs, compare them, keep what is constant.

The program is started a few times under ptrace on the addresses that the load phase chose and
stopped when its linker has finished and no constructor has run.  What is equal in all runs is part
of the image; words that follow the stack, the vDSO and the like are written by boot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spidl.diagnostics import LinkError, Place, Refusal
from spidl.link.actions import Anchor, SetThread, ThreadCall, Word
from spidl.link.link import Link
from spidl.link.memory import U64, Memory, among
from spidl.link.runtime import Runtime
from spidl.link.space import CopyRun, page_up
from spidl.targets.exec.capture import capture
from spidl.targets.exec.cpu import time_stamp
from spidl.targets.exec.differ import Unexplained, differing, explain, memories_of, same_shape
from spidl.targets.exec.oracle import compare
from spidl.targets.exec.owned import ARCH_SET_FS, mirror_owned, module_mappings, thread_pointer
from spidl.targets.exec.shown import ShellFolder, Shown, place, preload_variable, show
from spidl.targets.exec.snapshot import CapturePlan, Snapshot

_PADDING = ({"A": "1"}, {"B": "x" * 700, "C": "", "D": "yy"}, {"E": "z" * 45, "F": "0"})
_ARGUMENTS = ((), ("one",), ("two", "3"))
_STACKS = (8 << 20, 9 << 20, 12 << 20)
"""Each run has another environment, argument count and stack limit, so that words which follow
one of them show it."""
_MOST_CLOCKS = 4
"""glibc 2.31 to 2.41 have two or three."""
_ARENA_GAP = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Adopted:
    """The state to start from: memory as it must be, words for boot to write, set-up calls."""

    snapshot: Snapshot
    memory: Memory
    words: tuple[Word, ...]
    calls: tuple[SetThread, ...]
    shown: Shown


def adopt(link: Link, runtime: Runtime) -> Adopted:
    """Capture, compare, merge.  Raises `LinkError` and `Refusal` ``adopt/...``."""
    with ShellFolder() as folder:
        shown = show(link, runtime, folder)
        plans = _plans(link, runtime, shown)
        began = time_stamp()
        first, second = capture(plans[0]), capture(plans[1])
        _check_objects(link, first)
        slots_bound = runtime.now_variable is None or not _lazy_slots(link)
        third = capture(plans[2] if slots_bound else plans[3])
    span = (began, time_stamp())
    runs = (first, second, third)
    if not same_shape(runs):
        raise Refusal(
            "adopt/unstable",
            f"{link.root.name} maps other memory in each start",
            place=Place(link.root.path),
            help="a library decides at load time what to map; it is left to ld.so",
        )
    memories = memories_of(runs)
    compare(link, runtime.linker, memories[2], slots_bound=slots_bound)
    own = [(m.start, m.initial()) for m in module_mappings(link)]
    memory = Memory([*memories[0].copy().blocks, *own])
    link.space.apply(memory)
    words = _deferred_words(link, memory, memories, runs, slots_bound=slots_bound)
    written = _written(link)
    _restore_linker(link, runtime, memory, memories[0])
    calls = _set_up_calls(link, first)
    mirror_owned(link, memory, thread_pointer(calls))
    words += _start_words(link, runtime, memory, runs, memories, written, span, slots_bound)
    return Adopted(first, memory, tuple(sorted(words, key=lambda w: w.address)), calls, shown)


def _set_up_calls(link: Link, snapshot: Snapshot) -> tuple[SetThread, ...]:
    """The calls that boot makes again; Refusal ``adopt/unknown-set-up`` for one it cannot."""
    for record in snapshot.calls:
        if record.call is ThreadCall.ARCH_PRCTL and record.arguments[0] != ARCH_SET_FS:
            raise Refusal(
                "adopt/unknown-set-up",
                f"the system's linker calls arch_prctl({record.arguments[0]:#x}) for a thread",
                place=Place(link.root.path),
                help="such as for shadow stacks; the program is left to it",
            )
    return tuple(SetThread(record.call, record.arguments) for record in snapshot.calls)


def _plans(link: Link, runtime: Runtime, shown: Shown) -> list[CapturePlan]:
    """Two lazy runs, one with every slot bound, and a third lazy one in its place."""
    root = link.root
    placements = {dso.number: place(dso) for dso in link.objects if dso.identity is not None}
    steering = dict(link.environment.steering)
    if shown.paths:
        steering["LD_PRELOAD"] = preload_variable(steering.get("LD_PRELOAD"), shown.paths)
    linker = placements.pop(runtime.linker.number)
    main = placements.pop(root.number)
    assert root.file.phdr_vaddr is not None, "main programs map their headers"
    plans = []
    for i, now in ((0, False), (1, False), (2, True), (2, False)):
        variables = {**_PADDING[i], **steering}
        if now and runtime.now_variable is not None:
            variables[runtime.now_variable] = "1"
        plans.append(
            CapturePlan(
                program=root.path,
                arguments=(root.path, *_ARGUMENTS[i]),
                environment=variables,
                main=main,
                interpreter=linker,
                libraries=(*placements.values(), *(s.placement for s in shown.shells)),
                stop=runtime.stop,
                arena=page_up(link.space.top) + _ARENA_GAP,
                entry=root.bias + root.file.entry,
                phdr=root.bias + root.file.phdr_vaddr,
                base=runtime.linker.start,
                stack_limit=_STACKS[i],
                deny_brk=runtime.deny_brk,
            )
        )
    return plans


def _check_objects(link: Link, snapshot: Snapshot) -> None:
    """The run-time linker must have loaded what we collected, nothing more or less."""
    if snapshot.unexpected:
        raise LinkError(
            "adopt/other-objects",
            f"the system's linker also loads {', '.join(snapshot.unexpected)}",
            place=Place(link.root.path),
            help="please report this program: Spidl does not find a library that ld.so finds",
        )
    mapped = {(vma.device, vma.inode) for vma in snapshot.vmas}
    for dso in link.objects:
        identity = dso.identity
        if identity is not None and (identity.device, identity.inode) not in mapped:
            raise LinkError(
                "adopt/other-objects",
                f"the system's linker does not load {dso.path}",
                place=Place(link.root.path),
                notes=(f"needed because: {dso.because}; {dso.found}",),
                help="please report this program: ld.so finds another library than Spidl does",
            )


def _lazy_slots(link: Link) -> bool:
    """Whether a PLT symbol is undefined, so that binding every slot at start would fail."""
    return any(
        bool(((b.provider < 0) & ~b.weak_or_answered & (b.requests.lookup == 1)).any())
        for b in link.bindings
    )


def _deferred_words(
    link: Link,
    memory: Memory,
    memories: list[Memory],
    runs: tuple[Snapshot, ...],
    *,
    slots_bound: bool,
) -> list[Word]:
    """Words that only the running process knows: take them from the run with bound slots, if any.

    IFUNC resolvers may answer with a function of the vDSO, which moves with each start.
    """
    words: list[Word] = []
    for deferred in link.space.deferred:
        addresses = deferred.addresses
        chosen = 2 if slots_bound else 0
        values = memories[chosen].read_words(addresses)
        anchors = runs[chosen].anchors
        in_vdso = (values >= np.uint64(anchors.vdso)) & (values < np.uint64(anchors.vdso_end))
        if anchors.vdso and in_vdso.any():
            words += [
                Word(int(address), Anchor.VDSO, int(value) - anchors.vdso)
                for address, value in zip(addresses[in_vdso], values[in_vdso], strict=True)
            ]
        memory.write_words(addresses, values)
    return words


def _written(link: Link) -> U64:
    """In order: every address that our passes wrote, and those that they left to the process."""
    parts = [
        w.addresses & np.uint64(2**64 - 8) for w in link.space.writes if not isinstance(w, CopyRun)
    ]
    parts += [d.addresses for d in link.space.deferred]
    # The parts are runs in ascending order, which a stable sort only merges.
    return np.sort(np.concatenate(parts), kind="stable") if parts else np.zeros(0, np.uint64)


def _restore_linker(link: Link, runtime: Runtime, memory: Memory, lazy: Memory) -> None:
    """The run-time linker's own memory, and copies of its data, stay as it left them."""
    linker = runtime.linker
    blocks = dict(lazy.blocks)
    for start, data in memory.blocks:
        if linker.start <= start < linker.end and data is not blocks[start]:
            data[:] = blocks[start]
    for write in link.space.writes:
        if isinstance(write, CopyRun) and write.origin:
            content = lazy.read_bytes(write.address, len(write.content))
            memory.write_bytes(write.address, content)


def _start_words(
    link: Link,
    runtime: Runtime,
    memory: Memory,
    runs: tuple[Snapshot, ...],
    memories: list[Memory],
    written: U64,
    span: tuple[int, int],
    slots_bound: bool,
) -> list[Word]:
    """Words that follow an anchor; Refusal ``adopt/unexplained`` for any that follows none."""
    rseq = [(r.arguments[0], r.arguments[1]) for r in runs[0].calls if r.call is ThreadCall.RSEQ]
    for address, size in rseq:
        _reset_rseq(memory, address, size)
    addresses = differing(memories)
    start, end = np.uint64(runtime.linker.start), np.uint64(runtime.linker.end)
    own = (addresses >= start) & (addresses < end)
    addresses = addresses[own | ~among(addresses, written)]
    values = [m.read_words(addresses) for m in memories]
    anchors = [run.anchors for run in runs]
    words: list[Word] = []
    unexplained: list[Unexplained] = []
    for row, address in enumerate(addresses.tolist()):
        if any(start <= address < start + size for start, size in rseq):
            continue
        column = [int(v[row]) for v in values]
        found = explain(address, column, anchors)
        if found is None and column[0] == column[1] and slots_bound:
            continue  # the third run binds slots at once; the lazy runs agree
        if found is None:
            found = explain(address, column[:2], anchors[:2])
        if found is None:
            unexplained.append(Unexplained(address, tuple(column)))
        else:
            words += found
    clocks = [u for u in unexplained if _is_clock(u, runtime, span)]
    if len(clocks) > _MOST_CLOCKS or len(clocks) < len(unexplained):
        raise _refuse(link, unexplained)
    return words


def _is_clock(word: Unexplained, runtime: Runtime, span: tuple[int, int]) -> bool:
    """Whether a word of the linker's own data is a time-stamp counter or a duration in its ticks.

    glibc's rtld.c measures its own start (for LD_DEBUG=statistics) with rdtsc, and nothing reads
    those words later.  ``span`` is the counter before the first run and after the last.
    """
    if not runtime.linker.start <= word.address < runtime.linker.end:
        return False
    began, ended = span
    a, b, c = word.values
    return began < a < b < c < ended or all(0 < value < ended - began for value in word.values)


def _reset_rseq(memory: Memory, address: int, size: int) -> None:
    """A fresh struct rseq: cpu_id is RSEQ_CPU_ID_UNINITIALIZED until the kernel has it."""
    memory.write_bytes(address, np.zeros(min(size, 32), np.uint8))
    memory.write_words(np.array([address + 4], np.uint64), np.array([2**32 - 1], np.uint64), 4)


def _refuse(link: Link, unexplained: list[Unexplained]) -> Refusal:
    notes = []
    for word in unexplained[:5]:
        where = next((d for d in link.objects if d.start <= word.address < d.end), None)
        inside = "the linker's heap"
        if where is not None:
            inside = f"{where.name}+{word.address - where.bias:#x}"
        notes.append(f"{word.address:#x} ({inside}): {', '.join(f'{v:#x}' for v in word.values)}")
    return Refusal(
        "adopt/unexplained",
        f"{len(unexplained)} words of {link.root.name} differ in each start for no known reason",
        place=Place(link.root.path),
        notes=tuple(notes),
        help="an image could be wrong, so the program starts the plain way; please report it",
    )
