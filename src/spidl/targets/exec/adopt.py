"""Adopting the run-time linker's state: plan the runs, compare them, keep what is constant.

The program is started a few times under ptrace on the addresses that the load phase chose and
stopped when its linker has finished and no constructor has run.  What is equal in all runs is part
of the image; words that follow the stack, the vDSO and the like are written by boot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spidl.diagnostics import LinkError, Place, Refusal
from spidl.link.actions import CallStore, Protection, SetThread, ThreadCall, Word
from spidl.link.link import Link
from spidl.link.memory import U8, U64, Memory, among
from spidl.link.runtime import Runtime
from spidl.link.space import PAGE, CopyRun, page_up
from spidl.targets.exec.ahead import AHEAD
from spidl.targets.exec.area import AREA_SIZE, Area
from spidl.targets.exec.capture import capture
from spidl.targets.exec.cpu import time_stamp
from spidl.targets.exec.deferred import deferred_words
from spidl.targets.exec.differ import Unexplained, differing, explain, memories_of, same_shape
from spidl.targets.exec.oracle import compare
from spidl.targets.exec.origin import tell_origin
from spidl.targets.exec.owned import ARCH_SET_FS, mirror_owned, module_mappings, thread_pointer
from spidl.targets.exec.plans import capture_plans
from spidl.targets.exec.regroup import regroup
from spidl.targets.exec.shown import ShellFolder, Shown, show
from spidl.targets.exec.snapshot import CapturePlan, Snapshot
from spidl.targets.exec.spaces import Spaces

_MOST_CLOCKS = 4
"""glibc 2.31 to 2.41 have two or three."""


@dataclass(frozen=True, slots=True, eq=False)
class Adopted:
    """The state to start from: memory as it must be, words for boot to write, set-up calls."""

    snapshot: Snapshot
    memory: Memory
    words: tuple[Word, ...]
    calls: tuple[SetThread, ...]
    shown: Shown
    resolvers: tuple[CallStore, ...]
    """What boot asks IFUNC resolvers, once threads are set up."""
    area: Area
    """Memory behind everything else; what is added to it becomes part of the image."""
    data: Area
    """Likewise, and the program may write to it."""
    spaces: Spaces | None


def adopt(link: Link, runtime: Runtime) -> Adopted:
    """Capture, compare, merge.  Raises `LinkError` and `Refusal` ``adopt/...``."""
    with ShellFolder() as folder:
        shown = show(link, runtime, folder)
        plans = capture_plans(link, runtime, shown)
        slots_bound = runtime.now_variable is None or not _lazy_slots(link)
        runs, span = _runs(link, shown, plans, slots_bound=slots_bound)
    if not same_shape(runs):
        raise Refusal(
            "adopt/unstable",
            f"{link.root.name} maps other memory in each start",
            place=Place(link.root.path),
            help="a library decides at load time what to map; it is left to ld.so",
        )
    memories = memories_of(runs)
    compare(link, runtime.linker, memories[2], slots_bound=slots_bound)
    differences = _differences(link, runtime, memories)
    chosen = 2 if slots_bound else 0
    answers = deferred_words(link, memories[chosen], runs[chosen].anchors)
    kept = _kept(link, runtime, memories[0])
    # The first run's memory becomes the image's: from here on it is written to.
    memory = memories[0].joined((m.start, m.initial()) for m in module_mappings(link))
    link.space.apply(memory)
    for addresses, values in answers.known:
        memory.write_words(addresses, values)
    for address, content in kept:
        if not np.array_equal(memory.read_bytes(address, len(content)), content):
            memory.write_bytes(address, content)
    calls = _set_up_calls(link, runs[0])
    mirror_owned(link, memory, thread_pointer(calls))
    area = Area(page_up(runs[0].arena_end) + PAGE)
    data = Area(area.start + AREA_SIZE)
    spaces = regroup(link, shown, memory, area, data, tell_origin(link, memory, area))
    words = [
        *answers.words,
        *_start_words(link, runtime, memory, runs, differences, span, slots_bound),
    ]
    memory.make_writable(lambda start: bool(runs[0].protection(start) & Protection.EXEC))
    return Adopted(runs[0], memory, tuple(sorted(words, key=lambda w: w.address)), calls, shown,
                   tuple(answers.calls), area, data, spaces)  # fmt: skip


def _runs(
    link: Link, shown: Shown, plans: Sequence[CapturePlan], *, slots_bound: bool
) -> tuple[tuple[Snapshot, Snapshot, Snapshot], tuple[int, int]]:
    """The three runs, and the time-stamp counter before the first and after the last."""
    last = plans[2] if slots_bound else plans[3]
    ahead = link.facts.get(AHEAD, None)
    began = time_stamp()
    if ahead is None or not ahead.fits(plans[:2]):
        first, second = capture(plans[0]), capture(plans[1])
        _check_objects(link, shown, first)
        return (first, second, capture(last)), (began, time_stamp())
    # Beside the worker's runs, unless it must be on the same processor as they (see `capture`).
    third = _attempt_beside(last) if slots_bound else None
    early = ahead.results()
    first, second = (capture(plans[0]), capture(plans[1])) if early is None else early
    _check_objects(link, shown, first)
    if third is None:
        third = capture(last)
    if isinstance(third, LinkError):
        raise third
    return (first, second, third), (ahead.began, time_stamp())


def _attempt_beside(plan: CapturePlan) -> Snapshot | LinkError:
    """A run, beside others, whose error is told only if they have none."""
    try:
        return capture(plan, beside=True)
    except LinkError as error:
        return error


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


def _check_objects(link: Link, shown: Shown, snapshot: Snapshot) -> None:
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
        if any(shell.hides is dso for shell in shown.shells):
            continue  # it was shown a copy
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


def _differences(link: Link, runtime: Runtime, memories: list[Memory]) -> tuple[U64, list[U64]]:
    """Addresses and, run by run, values of the words that differ and that our passes did not write.

    All of the linker's own are among them: it goes on writing to what was relocated.
    """
    addresses = differing(memories)
    start, end = np.uint64(runtime.linker.start), np.uint64(runtime.linker.end)
    own = (addresses >= start) & (addresses < end)
    addresses = addresses[own | ~_written(link, memories[0], addresses)]
    return addresses, [memory.read_words(addresses) for memory in memories]


def _written(link: Link, memory: Memory, addresses: U64) -> npt.NDArray[np.bool_]:
    """Which of these words our passes wrote, or left to the process."""
    writes = [write for write in link.space.writes if not isinstance(write, CopyRun)]
    parts = [w.addresses for w in writes] + [d.addresses for d in link.space.deferred]
    if not parts:
        return np.zeros(len(addresses), np.bool_)
    words = np.concatenate(parts) & np.uint64(2**64 - 8)
    where, asked = memory.locate(words), memory.locate(addresses)
    if where is None or asked is None:
        return among(addresses, np.sort(words))
    written = np.zeros(memory.flat_words, np.bool_)
    written[where] = True
    found: npt.NDArray[np.bool_] = written[asked]
    return found


def _kept(link: Link, runtime: Runtime, lazy: Memory) -> list[tuple[int, U8]]:
    """What stays as the run-time linker left it: its own memory, and copies of its data."""
    linker = runtime.linker
    kept = [
        (start, data.copy() if data.flags.writeable else data)
        for start, data in lazy.blocks
        if linker.start <= start < linker.end
    ]
    for write in link.space.writes:
        if (
            isinstance(write, CopyRun)
            and write.origin
            and not any(dso.start <= write.origin < dso.end for dso in link.apart)
        ):
            kept.append(
                (write.address, np.array(lazy.read_bytes(write.address, len(write.content))))
            )
    return kept


def _start_words(
    link: Link,
    runtime: Runtime,
    memory: Memory,
    runs: tuple[Snapshot, ...],
    differences: tuple[U64, list[U64]],
    span: tuple[int, int],
    slots_bound: bool,
) -> list[Word]:
    """Words that follow an anchor; Refusal ``adopt/unexplained`` for any that follows none."""
    rseq = [(r.arguments[0], r.arguments[1]) for r in runs[0].calls if r.call is ThreadCall.RSEQ]
    for address, size in rseq:
        _reset_rseq(memory, address, size)
    addresses, values = differences
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
    values = word.values
    return all(began < v < ended for v in values) or all(0 < v < ended - began for v in values)


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
