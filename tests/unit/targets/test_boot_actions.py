"""What boot does to a process that starts: words, calls, identity, filters, registers."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest
from tinyimage import DATA, FREE, PROGRAM, Tiny, assemble, identity, write_data, write_elf

from spidl.link.actions import (
    Anchor,
    Call,
    CallStore,
    CheckAbsent,
    Filter,
    Identity,
    Jump,
    MapFile,
    Patch,
    Protect,
    Protection,
    Segment,
    SetThread,
    ThreadCall,
    Word,
)
from spidl.targets.exec.table import encode

PAUSE = "mov $34, %eax\nsyscall\n"
AT_RANDOM = 25


def words_of(tiny: Tiny, *actions: object, count: int, code: str = "") -> tuple[int, ...]:
    """The first words of DATA that a program sees, which has run ``code`` before."""
    done = tiny.run(tiny.image(*actions, code=code + write_data(8 * count)))  # type: ignore[arg-type]
    assert (done.returncode, done.stderr) == (7, b"")
    return struct.unpack(f"<{count}Q", done.stdout)


# --- words ----------------------------------------------------------------------------------------


def test_words_hold_what_the_kernel_gave(tiny: Tiny) -> None:
    """The program writes its stack from argc on, then the patched words: both must agree."""
    plain = [anchor for anchor in Anchor if anchor not in (Anchor.RANDOM0, Anchor.RANDOM1)]
    patch = Patch(tuple(Word(DATA + 8 * anchor, anchor, 0) for anchor in plain))
    masks = Patch(
        (
            Word(DATA + 8 * Anchor.RANDOM0, Anchor.RANDOM0, ~0xFF),
            Word(DATA + 8 * Anchor.RANDOM1, Anchor.RANDOM1, -1),
        )
    )
    code = f"""
    mov $1, %eax
    mov $1, %edi
    mov {DATA + 8 * Anchor.RANDOM}, %rsi
    mov $16, %edx
    syscall
    mov $1, %eax
    mov %rsp, %rsi
    mov $1024, %edx
    syscall
    mov $12, %eax
    xor %edi, %edi
    syscall
    mov %rax, {DATA}
    """
    path = tiny.image(patch, masks, code=code + write_data(128))
    child = subprocess.Popen([path, "a"], env={"B": "c" * 1000}, stdout=subprocess.PIPE)
    output = child.communicate(timeout=10)[0]
    random, stack = output[:16], struct.unpack("<128Q", output[16:1040])
    words = struct.unpack("<16Q", output[1040:])
    argc = words[Anchor.ARGC]
    assert argc == stack[0] == 2
    assert words[Anchor.ARGV] == words[Anchor.STACK] + 8
    assert words[Anchor.ENVP] == words[Anchor.ARGV] + 8 * (argc + 1)
    assert words[Anchor.AUXV] == words[Anchor.ENVP] + 16
    pairs = stack[(words[Anchor.AUXV] - words[Anchor.STACK]) // 8 :]
    auxv = dict(zip(pairs[::2], pairs[1::2], strict=True))
    assert words[Anchor.RANDOM] == auxv[AT_RANDOM]
    assert words[Anchor.PLATFORM] == auxv[15]
    assert words[Anchor.EXECFN] == auxv[31]
    assert words[Anchor.VDSO] == auxv[33]
    assert words[Anchor.BRK] == words[0]
    assert words[Anchor.THREAD] == child.pid
    assert words[Anchor.RANDOM0] == int.from_bytes(random[:8], "little") & ~0xFF
    assert words[Anchor.RANDOM1] == int.from_bytes(random[8:], "little")
    soft = resource.getrlimit(resource.RLIMIT_STACK)[0]
    assert words[Anchor.STACK_LIMIT] == -(-soft // 4096) * 4096


def test_addends_and_widths(tiny: Tiny) -> None:
    patch = Patch(
        (
            Word(DATA, Anchor.ARGC, -3),
            Word(DATA + 8, Anchor.ARGC, -3, 4),
            Word(DATA + 17, Anchor.ARGC, 0x1234, 4),  # unaligned
        )
    )
    assert words_of(tiny, patch, count=3) == ((1 << 64) - 1, 0xFFFFFFFF, 0x123600)


def test_a_stack_limit_that_is_no_whole_page(tiny: Tiny) -> None:
    path = tiny.image(Patch((Word(DATA, Anchor.STACK_LIMIT, 0),)), code=write_data(8))
    done = subprocess.run(["sh", "-c", f"ulimit -s 1001; {path}"], capture_output=True, check=False)
    assert int.from_bytes(done.stdout, "little") == 1001 * 1024 // 4096 * 4096 + 4096


# --- mappings -------------------------------------------------------------------------------------


def test_segments_of_a_file(tiny: Tiny) -> None:
    library = tiny.folder / "library"
    library.write_bytes(bytes(4096) + b"second page".ljust(4096, b".") + b"third")
    segments = (
        Segment(FREE, 4096, 4096, Protection.READ),
        Segment(FREE + 0x3000, 5, 8192, Protection.READ | Protection.WRITE),
    )
    action = MapFile(bytes(library), identity(library), segments)
    path = tiny.image(action, code=PAUSE)
    with subprocess.Popen([path]) as child:
        wait_for(child.pid, "pause")
        maps = Path(f"/proc/{child.pid}/maps").read_text().splitlines()
        child.kill()
    found = [line.split() for line in maps if line.endswith(str(library))]
    assert [(line[0], line[1], int(line[2], 16)) for line in found] == [
        (f"{FREE:08x}-{FREE + 0x1000:08x}", "r--p", 4096),
        (f"{FREE + 0x3000:08x}-{FREE + 0x4000:08x}", "rw-p", 8192),
    ]
    done = tiny.run(tiny.image(action, code=write_data(11, FREE)))
    assert done.stdout == b"second page"


def test_protect(tiny: Tiny) -> None:
    store = f"movb $1, {DATA}\n"
    protect = Protect(DATA, 4096, Protection.READ)
    assert words_of(tiny, count=1, code=store) == (1,)
    assert tiny.run(tiny.image(protect, code=store)).returncode == -signal.SIGSEGV


# --- calls ----------------------------------------------------------------------------------------

CONSTRUCTORS = f"""
.org 0x200
first: movaps %xmm0, -24(%rsp)          # faults unless the stack is aligned as the psABI says
    mov %rdi, {DATA}
    mov (%rsi), %rax
    mov %rax, {DATA + 8}                # argv[0]
    mov (%rdx), %rax
    mov %rax, {DATA + 16}               # envp[0]
    ret
.org 0x300
second: shlq $4, {DATA}
    ret
.org 0x400
resolver: mov {DATA}, %rax
    add $5, %rax
    ret
"""


def test_calls_in_order(tiny: Tiny) -> None:
    first, second, resolver = PROGRAM + 0x200, PROGRAM + 0x300, PROGRAM + 0x400
    actions = (Call(first), CallStore(resolver, DATA + 24), Call(second))
    code = write_data(32) + CONSTRUCTORS
    done = tiny.run(tiny.image(*actions, Patch((Word(DATA + 32, Anchor.STACK, 0),)), code=code))
    argc, argv0, envp0, resolved = struct.unpack("<4Q", done.stdout)
    assert (argc, resolved) == (2 << 4, 7)
    image_path, hello = str(tiny.folder / "image"), "hello"
    assert envp0 - argv0 == len(image_path) + 1 + len(hello) + 1


def test_registers_at_the_jump(tiny: Tiny) -> None:
    """rax and rdx as asked, rsp at argc, the other registers 0, the direction flag clear."""
    names = [
        "rbx",
        "rcx",
        "rsi",
        "rdi",
        "rbp",
        "r8",
        "r9",
        "r10",
        "r11",
        "r12",
        "r13",
        "r14",
        "r15",
    ]
    store = "".join(f"mov %{name}, {DATA + 8 * i}\n" for i, name in enumerate(names))
    rest = f"mov %rax, {DATA + 104}\nmov %rdx, {DATA + 112}\npop %rax\nmov %rax, {DATA + 120}\n"
    flags = f"pushf\npop %rax\nand $0x400, %eax\nmov %rax, {DATA + 128}\n"
    jump = Jump(PROGRAM, (1 << 64) - 1, 0x1122_3344_5566_7788)
    # The constructor leaves the direction flag set, which the psABI forbids: boot clears it.
    code = store + rest + flags + write_data(136) + ".org 0x200\nstd\nret\n"
    done = tiny.run(tiny.image(Call(PROGRAM + 0x200), jump=jump, code=code))
    values = struct.unpack("<17Q", done.stdout)
    assert values == (0,) * 13 + (jump.rax, jump.rdx, 2, 0)


# --- threads --------------------------------------------------------------------------------------


def test_thread_set_up(tiny: Tiny) -> None:
    actions = (
        SetThread(ThreadCall.ARCH_PRCTL, (0x1002, DATA + 64, 0, 0)),
        SetThread(ThreadCall.ARCH_PRCTL, (0x1001, DATA + 128, 0, 0)),
        SetThread(ThreadCall.SET_TID_ADDRESS, (DATA + 256, 0, 0, 0)),
        SetThread(ThreadCall.SET_ROBUST_LIST, (DATA + 512, 24, 0, 0)),
        CheckAbsent(b"/not here"),
    )
    code = "movb $5, %fs:0\nmovb $6, %gs:0\n" + write_data(136)
    done = tiny.run(tiny.image(*actions, code=code))
    assert (done.stdout[64], done.stdout[128]) == (5, 6)


@pytest.mark.parametrize(
    "action",
    [
        SetThread(ThreadCall.ARCH_PRCTL, (0x1002, 1 << 63, 0, 0)),
        SetThread(ThreadCall.SET_ROBUST_LIST, (DATA, 23, 0, 0)),
        SetThread(ThreadCall.RSEQ, (DATA + 1, 32, 0, 0x53053053)),
    ],
)
def test_a_thread_call_that_fails(tiny: Tiny, action: SetThread) -> None:
    done = tiny.run(tiny.image(action))
    assert (done.returncode, done.stdout) == (0, b"hello\n")
    assert done.stderr.startswith(b"spidl: plain way: cannot set up the thread (errno ")


# --- filters --------------------------------------------------------------------------------------

GETPPID = 110
LOAD_NUMBER = struct.pack("<HBBI", 0x20, 0, 0, 0)
RETURN_ALLOW = struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000)
RETURN_EPERM = struct.pack("<HBBI", 6, 0, 0, 0x00050001)
FORBID_GETPPID = (
    LOAD_NUMBER + struct.pack("<HBBI", 0x15, 0, 1, GETPPID) + RETURN_EPERM + RETURN_ALLOW
)
CALL_GETPPID = f"mov ${GETPPID}, %eax\nsyscall\nmov %rax, {DATA}\n"


def test_a_filter_that_forbids_a_call(tiny: Tiny) -> None:
    assert words_of(tiny, count=1, code=CALL_GETPPID) == (os.getpid(),)
    filtered = words_of(tiny, Filter(FORBID_GETPPID), count=1, code=CALL_GETPPID)
    assert filtered == ((1 << 64) - 1,)


def test_a_filter_the_kernel_declines_is_fatal(tiny: Tiny) -> None:
    done = tiny.run(tiny.image(Filter(LOAD_NUMBER)))
    assert (done.returncode, done.stdout) == (126, b"")
    message = b"spidl: error[start/policy]: cannot install the filter (errno 22)\n"
    assert done.stderr == message


def test_a_failure_after_a_filter_is_fatal(tiny: Tiny) -> None:
    done = tiny.run(tiny.image(Filter(FORBID_GETPPID), CheckAbsent(b"/")))
    assert (done.returncode, done.stdout) == (126, b"")


# --- identity -------------------------------------------------------------------------------------


def wait_for(pid: int, state: str) -> None:
    """Until the process sleeps in a system call, `pause`."""
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "S":
        assert time.monotonic() < deadline, state
        time.sleep(0.005)


@pytest.mark.parametrize("environment", [{}, {"A": "b", "C": "d"}])
def test_identity(tiny: Tiny, environment: dict[str, str]) -> None:
    before = tiny.image(code=PAUSE)
    before = before.rename(before.with_name("before"))
    change = Identity(
        phdr=PROGRAM + 64,
        phnum=3,
        base=0x7000_0000,
        entry=PROGRAM + 0x123,
        path=b"/usr/bin/the-program",
        code=(PROGRAM, PROGRAM + 0x1000),
        data=(DATA, DATA + 0x800),
    )
    seen = []
    for path in (before, tiny.image(change, code=PAUSE)):
        with subprocess.Popen([path, "argument"], env=environment) as child:
            wait_for(child.pid, "pause")
            proc = Path(f"/proc/{child.pid}")
            auxv = dict(struct.iter_unpack("<QQ", (proc / "auxv").read_bytes()))
            with open(proc / "mem", "rb", buffering=0) as memory:
                memory.seek(auxv[31])
                execfn = memory.read(64).split(b"\0")[0]
            seen.append(
                (
                    auxv,
                    execfn,
                    (proc / "comm").read_text(),
                    (proc / "stat").read_text().rsplit(")", 1)[1].split(),
                    (proc / "cmdline").read_bytes().split(b"\0"),
                    (proc / "environ").read_bytes(),
                )
            )
            child.kill()
    (old, *_), (new, execfn, comm, stat, cmdline, environ) = seen
    assert (new[3], new[5], new[7], new[9]) == (PROGRAM + 64, 3, 0x7000_0000, PROGRAM + 0x123)
    assert execfn == b"/usr/bin/the-program"
    assert comm == "the-program\n"
    assert (int(stat[23]), int(stat[24])) == (PROGRAM, PROGRAM + 0x1000)  # startcode, endcode
    assert (int(stat[42]), int(stat[43])) == (DATA, DATA + 0x800)  # start_data, end_data
    assert cmdline[1:] == [b"argument", b""]
    assert environ == b"".join(f"{k}={v}".encode() + b"\0" for k, v in environment.items())
    assert {kind: new[kind] for kind in (6, 16, 17, 11, 23)} == {
        kind: old[kind] for kind in (6, 16, 17, 11, 23)
    }


def test_the_program_can_grow_its_heap_after_identity(tiny: Tiny) -> None:
    """PR_SET_MM_MAP replaces the break's bounds too: they must stay the kernel's."""
    change = Identity(1, 2, 3, 4, b"/p", (PROGRAM, PROGRAM + 1), (DATA, DATA))
    grow = f"""
    mov $12, %eax
    xor %edi, %edi
    syscall
    lea 8192(%rax), %rdi
    mov %rax, %rbx
    mov $12, %eax
    syscall
    sub %rbx, %rax
    mov %rax, {DATA}
    movb $1, 8191(%rbx)
    """
    assert words_of(tiny, change, count=1, code=grow) == (8192,)


def test_boot_works_at_any_address(tiny: Tiny) -> None:
    other = 0x5555_0000_0000
    table = encode((Jump(PROGRAM),), program=b"/bin/echo", spans=((PROGRAM, DATA),))
    path = tiny.folder / "elsewhere"
    code = assemble("mov $231, %eax\nmov $9, %edi\nsyscall", tiny.folder)
    boot = tiny.boot
    loads = [(PROGRAM, code, 5), (other, boot.code, 5), (other + boot.table, table, 4)]
    write_elf(path, other + boot.entry, loads)
    assert tiny.run(path).returncode == 9
