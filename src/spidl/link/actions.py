"""What only the started process can do: the actions, and their form in an image.

A module's start pass returns actions; the exec target writes them behind the boot code, which
performs them in order (boot/boot.c).  The enums here are the one source of the numbers:
``python -m spidl.targets.exec.header`` prints the C header from them.

Until ``JUMP`` nothing that an action does outlives an ``execve``, so boot can still take the plain
way (start the original program under the system's linker) when any check fails.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag


class Kind(IntEnum):
    """The kinds of action that boot knows."""

    CHECK = 1
    """Compare one fact of this start with the link's; differ: the plain way."""
    MAP_FILE = 2
    """Open a file, check that it is the one that was linked, map segments of it."""
    PATCH = 3
    """Write words that depend on this start: stack, vDSO, AT_RANDOM, thread id, brk."""
    CALL_STORE = 4
    """Call a function without arguments and store its result (an IFUNC resolver)."""
    SET_THREAD = 5
    """Make one of the set-up system calls of a thread (see `ThreadCall`)."""
    PROTECT = 6
    """mprotect pages whose content is final."""
    FILTER = 7
    """Install a seccomp filter (sets no_new_privs), now or where the program is entered."""
    CALL = 8
    """Call a function with (argc, argv, envp): a constructor."""
    IDENTITY = 9
    """Tell the kernel, the auxiliary vector and debuggers about the program, not the image."""
    JUMP = 10
    """Enter the program or its run-time linker; the last action."""
    REPORT = 11
    """Say which call a filter stopped (SIGSYS), and die of it."""
    GATE = 12
    """Which libraries may be opened at run time, and by whom (boot/open.c)."""


class Check(IntEnum):
    """What a CHECK compares."""

    ENVIRONMENT = 1
    """Variables that steer the linker (LD_*, MALLOC_*, GLIBC_TUNABLES): the same set as linked."""
    AUXV = 2
    """One entry of the auxiliary vector has this value (absent counts as 0)."""
    CPUID = 3
    """One CPUID leaf gives these registers under these masks."""
    VDSO = 4
    """These bytes lie at this offset of the vDSO; length 0: there is no vDSO."""
    STACK_LIMIT = 5
    """The soft RLIMIT_STACK, in bytes, lies in a range."""
    FILE = 6
    """The file at a path is the one that was linked."""
    ABSENT = 7
    """Nothing can be opened at this path."""


class Anchor(IntEnum):
    """What a word that boot writes is relative to.

    For RANDOM0 and RANDOM1 ``addend`` is a mask (the stack protector's canary clears a byte); for
    the others it is added.
    """

    STACK = 1
    """The stack pointer at entry (the address of argc)."""
    ARGC = 2
    ARGV = 3
    ENVP = 4
    AUXV = 5
    """The address of the auxiliary vector."""
    RANDOM = 6
    """The pointer AT_RANDOM."""
    PLATFORM = 7
    """The pointer AT_PLATFORM."""
    EXECFN = 8
    """The pointer AT_EXECFN (after IDENTITY: the program's path)."""
    VDSO = 9
    """The vDSO's base, AT_SYSINFO_EHDR."""
    BRK = 10
    """The program break at start, brk(0)."""
    THREAD = 11
    """The thread id."""
    RANDOM0 = 12
    """The first eight bytes at AT_RANDOM, masked."""
    RANDOM1 = 13
    """The second eight bytes at AT_RANDOM, masked."""
    STACK_LIMIT = 14
    """The soft RLIMIT_STACK in bytes, rounded up to a page."""


class ThreadCall(IntEnum):
    """The system calls SET_THREAD may make, by their x86-64 numbers."""

    ARCH_PRCTL = 158
    SET_TID_ADDRESS = 218
    SET_ROBUST_LIST = 273
    RSEQ = 334


class Protection(IntFlag):
    """Page permissions, with the values of mmap's PROT_*."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXEC = 4


class TableFlag(IntFlag):
    """Flags of a whole action table."""

    POLICY = 1
    """A module enforces a policy: where a check fails, refuse; never take the plain way."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What must be unchanged for a file to be the one that was linked.

    Times are (seconds, nanoseconds).  ctime cannot be set back by the file's owner, so a rewrite
    in place that restores size and mtime is still seen.
    """

    device: int
    inode: int
    size: int
    mtime: tuple[int, int]
    ctime: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """Part of a file to map privately: page-aligned address and file offset, length in bytes."""

    address: int
    length: int
    offset: int
    protection: Protection


@dataclass(frozen=True, slots=True)
class Word:
    """A word that depends on this start; ``width`` is 4 or 8 bytes."""

    address: int
    anchor: Anchor
    addend: int
    width: int = 8


@dataclass(frozen=True, slots=True)
class CheckEnvironment:
    """The linker's environment variables, each ``NAME=value``, in any order."""

    variables: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class CheckAuxv:
    type: int
    value: int


@dataclass(frozen=True, slots=True)
class CheckCpuid:
    """Registers are (eax, ebx, ecx, edx)."""

    leaf: int
    subleaf: int
    masks: tuple[int, int, int, int]
    values: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class CheckVdso:
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class CheckStackLimit:
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class CheckFile:
    path: bytes
    identity: FileIdentity


@dataclass(frozen=True, slots=True)
class CheckAbsent:
    path: bytes


@dataclass(frozen=True, slots=True)
class MapFile:
    path: bytes
    identity: FileIdentity
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Patch:
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class CallStore:
    function: int
    slot: int


@dataclass(frozen=True, slots=True)
class SetThread:
    call: ThreadCall
    arguments: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Protect:
    address: int
    length: int
    protection: Protection


@dataclass(frozen=True, slots=True)
class Filter:
    """``program`` is an array of struct sock_filter, 8 bytes each; ``flags`` are seccomp(2)'s.

    With ``entry``, the address of the program's first instruction, it is installed when that is
    reached: behind the constructors that the run-time linker calls.
    """

    program: bytes
    flags: int = 0
    entry: int = 0


@dataclass(frozen=True, slots=True)
class Origin:
    """Code by the name of its object: [start, end) are run-time addresses."""

    start: int
    end: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """Of what the handler of SIGSYS tells: the code that may have made the call, in any order, and
    names of system calls by number, empty where there is none.

    ``call`` is writev or write, the one that the filter lets it use; 0: it says nothing.
    """

    origins: tuple[Origin, ...]
    names: tuple[bytes, ...]
    call: int


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file that an opening loads; no identity: nothing may be there.

    ``linked``: it is part of the link too, so that it is loaded again in another namespace only.
    """

    path: bytes
    identity: FileIdentity | None
    linked: bool = False


@dataclass(frozen=True, slots=True)
class Opening:
    """A library that may be opened at run time.

    It is known by ``names``, as they are given to dlopen, and by any path of its file, the first of
    ``files``; the others are what it needs.  ``openers`` are numbers of the gate's origins; the
    number behind the last stands for all code outside of them.
    """

    names: tuple[bytes, ...]
    files: tuple[OpenedFile, ...]
    openers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gate:
    """Libraries are opened at run time only if they are among ``openings``.

    ``origins`` is the code that may ask.  ``real`` and ``error`` are the addresses of glibc's
    _dl_open and _dl_signal_error; the target fills them in.
    """

    origins: tuple[Origin, ...]
    openings: tuple[Opening, ...]
    real: int = 0
    error: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    function: int


@dataclass(frozen=True, slots=True)
class Identity:
    """What AT_PHDR, AT_PHNUM, AT_BASE and AT_ENTRY would be, the path for AT_EXECFN and comm, and
    the (start, end) addresses of code and data for PR_SET_MM_MAP, all in bytes."""

    phdr: int
    phnum: int
    base: int
    entry: int
    path: bytes
    code: tuple[int, int]
    data: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Jump:
    """Registers at ``address``: rsp as the kernel gave it, rax and rdx as here, the others 0."""

    address: int
    rax: int = 0
    rdx: int = 0


Action = (
    CheckEnvironment
    | CheckAuxv
    | CheckCpuid
    | CheckVdso
    | CheckStackLimit
    | CheckFile
    | CheckAbsent
    | MapFile
    | Patch
    | CallStore
    | SetThread
    | Protect
    | Filter
    | Report
    | Gate
    | Call
    | Identity
    | Jump
)
