"""Which number a `syscall` has: each way in which code has been seen to load it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.analyse.building import LIBRARY, analysed, calls, is_unknown

# Each function is hand-written, so that no compiler improves it; 39 is getpid, 186 gettid.
ASSEMBLY = """
.text
.macro function name
.globl \\name
.type \\name, @function
\\name:
.cfi_startproc
.endm
.macro done name
.cfi_endproc
.size \\name, . - \\name
.endm

function plain
 mov $39, %eax; syscall; ret
done plain
function zero
 xor %eax, %eax; syscall; ret
done zero
function wide
 movabs $39, %rax; syscall; ret
done wide
function copied
 mov $39, %r8d; test %edi, %edi; je 1f; nop
1: mov %r8d, %eax; syscall; ret
done copied
function slot
 sub $24, %rsp; movl $39, 12(%rsp); mov %rdi, %rsi; mov 12(%rsp), %eax; syscall
 add $24, %rsp; ret
done slot
function pushed
 push $39; pop %rax; syscall; ret
done pushed
function framed
 push %rbp; mov %rsp, %rbp; sub $16, %rsp; movl $39, -8(%rbp); call plain@plt
 mov -8(%rbp), %eax; syscall; leave; ret
done framed
function chosen
 mov $39, %eax; mov $186, %edx; test %edi, %edi; cmovne %edx, %eax; syscall; ret
done chosen
function joined
 test %edi, %edi; je 1f; mov $39, %eax; jmp 2f
1: mov $186, %eax
2: syscall; ret
done joined
function computed
 lea 38(%rsi), %eax; syscall; ret
done computed
function added
 mov $30, %eax; add $9, %eax; syscall; ret
done added
function loaded
 mov number(%rip), %eax; syscall; ret
done loaded
function repeated
 mov $202, %ebx
1: mov %ebx, %eax; syscall; test %eax, %eax; jne 1b; ret
done repeated
function over_call
 mov $39, %ecx; call plain@plt; mov %ecx, %eax; syscall; ret
done over_call
function after_call
 mov $39, %eax; call plain@plt; syscall; ret
done after_call
function partly
 mov $0x1000, %eax; mov $39, %al; syscall; ret
done partly
function escaped
 sub $24, %rsp; movl $39, 8(%rsp); lea 8(%rsp), %rdi; call plain@plt; mov 8(%rsp), %eax; syscall
 add $24, %rsp; ret
done escaped

.type inner, @function
inner:
.cfi_startproc
 mov %edi, %eax; syscall; ret
.cfi_endproc
function calls_inner
 mov $39, %edi; call inner; mov $186, %edi; jmp inner
done calls_inner
function passes_on
 mov %esi, %edi; jmp inner
done passes_on
.type seventh, @function
seventh:
.cfi_startproc
 mov 8(%rsp), %eax; syscall; ret
.cfi_endproc
function calls_seventh
 push $39; call seventh; pop %rdx; ret
done calls_seventh
.type behind, @function
behind:
.cfi_startproc
 push %rbx; mov %rdi, %rbx; mov 8(%rbx), %rdi; mov (%rbx), %eax; syscall; pop %rbx; ret
.cfi_endproc
function calls_behind
 sub $40, %rsp; movl $105, (%rsp); mov %rdi, 8(%rsp); mov %rsp, %rdi; call behind
 add $40, %rsp; ret
done calls_behind
.type handler, @function
handler:
.cfi_startproc
 mov request(%rip), %rax; mov 8(%rax), %rdi; mov (%rax), %eax; syscall; ret
.cfi_endproc
.type hands_over, @function
hands_over:
.cfi_startproc
 mov %rdi, request(%rip); lea handler(%rip), %rsi; mov $13, %eax; syscall
 movq $0, request(%rip); ret
.cfi_endproc
function shares
 sub $40, %rsp; movl $106, (%rsp); mov %rsp, %rdi; call hands_over; add $40, %rsp; ret
done shares
function secret
 mov $39, %edi; call taken; ret
done secret
.type taken, @function
taken:
.cfi_startproc
 mov %edi, %eax; syscall; ret
.cfi_endproc
function gives_away
 lea taken(%rip), %rax; ret
done gives_away
.data
number: .long 39
.bss
.lcomm request, 8
.section .note.GNU-stack, "", @progbits
"""


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> object:
    return analysed(tmp_path_factory.mktemp("numbers"), ASSEMBLY, *LIBRARY, language="S")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", {"getpid"}),
        ("zero", {"read"}),
        ("wide", {"getpid"}),
        ("copied", {"getpid"}),
        ("slot", {"getpid"}),
        ("pushed", {"getpid"}),
        ("framed", {"getpid"}),
        ("chosen", {"getpid", "gettid"}),
        ("joined", {"getpid", "gettid"}),
        ("added", {"getpid"}),
        ("repeated", {"futex"}),
        ("over_call", {"getpid"}),
        ("calls_inner", {"getpid", "gettid"}),
        ("calls_seventh", {"getpid"}),
        ("calls_behind", {"setuid"}),
        ("shares", {"rt_sigaction", "setgid"}),
    ],
)
def test_it_is_known(summary: object, name: str, expected: set[str]) -> None:
    assert calls(summary, name) == expected
    assert not is_unknown(summary, name)


@pytest.mark.parametrize(
    "name", ["computed", "loaded", "after_call", "partly", "escaped", "gives_away"]
)
def test_it_is_said_to_be_unknown(summary: object, name: str) -> None:
    """What cannot be told is never left out."""
    assert is_unknown(summary, name)


def test_an_export_that_takes_the_number_is_a_wrapper(summary: object) -> None:
    assert summary.wrappers == {("passes_on", None): 1}
    # Nobody looks for the numbers of a name that is not libc's.
    assert is_unknown(summary, "passes_on")
    assert not is_unknown(summary, "calls_inner")


def test_a_site_says_where_and_why(summary: object) -> None:
    sites = {site.function: site for site in summary.unknown}
    assert sites["loaded"].reason == "the number is read from memory"
    assert sites["computed"].reason == "the number is computed"
    assert summary.exports["loaded", None] in sites["loaded"].classes


def test_libc_s_syscall_is_resolved_at_its_callers(tmp_path: Path) -> None:
    source = """
    #include <unistd.h>
    long known(void) { return syscall(39) + syscall(186); }
    long passed(long n) { return syscall(n); }
    long (*taken(void))(long, ...) { return syscall; }
    static long inner(int which) { return syscall(which ? 39 : 186); }
    long through(int which) { return inner(which); }
    """
    found = analysed(tmp_path, source, "-shared", "-fPIC", "-O2")
    at = next(i for i, (name, _) in enumerate(found.imports) if name == "syscall")

    def told(name: str) -> set[tuple[int, int]]:
        return set(found.classes[found.exports[name, None]].wrapper_calls)

    assert told("known") == {(at, 39), (at, 186)}
    assert told("through") == {(at, 39), (at, 186)}
    assert not is_unknown(found, "known")
    assert not is_unknown(found, "through")
    assert is_unknown(found, "passed")
    assert is_unknown(found, "taken")


def test_a_pointer_to_syscall_in_data_is_unknown_whatever_is_called(tmp_path: Path) -> None:
    source = "#include <unistd.h>\nlong (*pointer)(long, ...) = syscall;\n"
    found = analysed(tmp_path, source, "-shared", "-fPIC")
    assert found.classes[found.always].unknown


def test_one_caller_that_does_not_say_the_number_among_others_that_do(tmp_path: Path) -> None:
    """A PLT with a single entry is one function with its head; all its callers jump into it."""
    source = """
    #include <unistd.h>
    long known(void) { return syscall(39); }
    long any(long n) { return syscall(n); }
    """
    found = analysed(tmp_path, source, "-shared", "-fPIC", "-O2")
    assert not is_unknown(found, "known")
    assert is_unknown(found, "any")


def test_arguments_are_those_of_the_function_that_was_entered(tmp_path: Path) -> None:
    """Two functions that jump into the middle of a third: each has its own callers."""
    source = """
    .text
    .type shared, @function
    shared: .cfi_startproc
     nop
    middle: mov %edi, %eax; syscall; ret
    .cfi_endproc
    .globl known; .type known, @function
    known: .cfi_startproc
     mov $39, %edi; jmp middle
    .cfi_endproc
    .globl any; .type any, @function
    any: .cfi_startproc
     nop; jmp middle
    .cfi_endproc
    .type inner, @function
    inner: .cfi_startproc
     xchg %ax, %ax; jmp middle
    .cfi_endproc
    .globl through; .type through, @function
    through: .cfi_startproc
     mov $186, %edi; call inner; ret
    .cfi_endproc
    .section .note.GNU-stack, "", @progbits
    """
    found = analysed(tmp_path, source, *LIBRARY, language="S")
    assert "getpid" in calls(found, "known")
    assert "gettid" in calls(found, "through")
    assert is_unknown(found, "any")
