"""What a capture run is asked for and what it returns."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from spidl.link.actions import Protection, ThreadCall


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one file must end up.

    ``bias`` is its l_addr, the address of vaddr 0; ``start`` and ``length`` are the page-rounded
    span of its PT_LOADs, memory size included; ``align`` is the largest p_align; all in bytes.
    ``device`` and ``inode`` are stat(2)'s.  ``content`` is the file, where the caller has it
    mapped: it stands for the pages that the program has not changed.
    """

    path: str
    device: int
    inode: int
    bias: int
    start: int
    length: int
    align: int
    content: npt.NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """One run: what to start, how, and where its memory must lie.

    ``main`` and ``interpreter`` are moved after execve where the kernel put them elsewhere;
    ``libraries`` are found by (device, inode) when the linker maps them; every other mapping
    without a fixed address goes to ``arena``, a page-aligned address from which they grow
    upwards.  ``stop`` is the address, after moving, of the instruction to stop *before*;
    ``entry``, ``phdr`` and ``base`` are what AT_ENTRY, AT_PHDR and AT_BASE must say.
    ``environment`` is complete: nothing is inherited.  ``stack_limit`` is the soft RLIMIT_STACK
    in bytes (None: inherited).  With ``deny_brk`` brk(2) fails.  ``timeout`` is in seconds.
    """

    program: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    main: Placement
    interpreter: Placement | None
    libraries: tuple[Placement, ...]
    stop: int
    arena: int
    entry: int
    phdr: int
    base: int
    stack_limit: int | None = None
    deny_brk: bool = False
    timeout: float = 10.0

    @property
    def placements(self) -> tuple[Placement, ...]:
        """All objects: the program, its interpreter, its libraries."""
        own = (self.main,) if self.interpreter is None else (self.main, self.interpreter)
        return own + self.libraries


@dataclass(frozen=True, slots=True)
class Vma:
    """One line of /proc/PID/maps: addresses and file offset in bytes.

    ``path`` is the kernel's name, such as ``[stack]`` for memory without a file, or empty.
    """

    start: int
    end: int
    protection: Protection
    shared: bool
    offset: int
    device: int
    inode: int
    path: str


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Private memory of the program: a VMA, or part of one where much of it is untouched.

    What is untouched is zeros (see `zeros`) or a read-only view of its file's content.
    """

    address: int
    content: npt.NDArray[np.uint8]

    @property
    def end(self) -> int:
        return self.address + len(self.content)


@dataclass(frozen=True, slots=True)
class ThreadCallRecord:
    """One set-up call of the first thread that succeeded, with its first four arguments."""

    call: ThreadCall
    arguments: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Anchors:
    """What the kernel chose for this run; addresses are 0 where there is no such thing.

    ``stack`` is the stack pointer at entry, the address of argc; ``argv``, ``envp`` and ``auxv``
    are the addresses of the vectors behind it (psABI 3.4.1); ``auxv_values`` are as corrected;
    ``brk`` is the program break at the stop; ``stack_limit`` is the soft RLIMIT_STACK in bytes,
    2**64 - 1 if there is none.
    """

    stack: int
    argc: int
    argv: int
    envp: int
    auxv: int
    auxv_values: dict[int, int]
    random: bytes
    random_address: int
    platform: int
    execfn: int
    vdso: int
    vdso_end: int
    brk: int
    thread: int
    stack_limit: int


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The process at the stop.

    ``vmas`` are all of its mappings in order of address.  ``files`` are the mappings of files that
    are not writable and hold no anonymous page, which can be mapped from the file again;
    ``regions`` are the content of the others that belong to the program, which [stack], [heap],
    [vdso] and the like do not; ``own`` is the array that those of them which are writable are parts
    of, in order.  ``calls`` are in order.  ``arena_end`` is the end of what was
    taken from the arena; ``unexpected`` are the paths of ELF files that were mapped although the
    plan has no place for them.
    """

    plan: CapturePlan
    vmas: tuple[Vma, ...]
    files: tuple[Vma, ...]
    regions: tuple[Region, ...]
    own: npt.NDArray[np.uint8]
    calls: tuple[ThreadCallRecord, ...]
    anchors: Anchors
    registers: dict[str, int]
    arena_end: int
    vdso: bytes
    unexpected: tuple[str, ...]

    def protection(self, address: int) -> Protection:
        """The permissions of a mapped address."""
        at = bisect_right(self.vmas, address, key=lambda vma: vma.start) - 1
        return self.vmas[at].protection
