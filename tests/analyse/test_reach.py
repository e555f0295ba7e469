"""What each function reaches: every way of getting from one piece of code to another."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from spidl.analyse import analyse
from spidl.elf import ElfFile
from tests.analyse.building import LIBRARY, analysed, build, calls, imports, is_unknown

SYSCALL = """
static inline long ask(long number) {
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number) : "rcx", "r11", "memory");
    return result;
}
#define NEVER_INLINE __attribute__((noinline, noclone))
"""
GETPID, GETTID, GETUID = "ask(39)", "ask(186)", "ask(102)"


@pytest.mark.parametrize("flags", [
    (), ("-O0",), ("-fcf-protection=full",), ("-mcmodel=large",), ("-mcmodel=medium",),
    ("-fno-asynchronous-unwind-tables", "-Wl,--no-eh-frame-hdr"), ("-Wl,--no-eh-frame-hdr",),
    ("-Wl,-s",), ("-fno-plt",), ("-Wl,-z,now",), ("-Wl,-z,noseparate-code",), ("-Wl,-Bsymbolic",),
    ("-Wl,-z,ibtplt", "-fcf-protection"),
], ids=" ".join)  # fmt: skip
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_calls_tables_and_pointers(tmp_path: Path, compiler: str, flags: tuple[str, ...]) -> None:
    """The same source in every form that compilers and linkers give it."""
    if compiler == "clang" and "-Wl,-z,ibtplt" in flags:
        flags = flags[1:]
    source = (
        SYSCALL
        + """
    extern void imported(void), other(void);
    NEVER_INLINE static long direct(void) { return ask(39); }
    long calls_it(void) { return direct() + 1; }
    long jumps_to_it(void) { return direct(); }
    NEVER_INLINE static long pointed(long x) { return ask(186) + x; }
    typedef long function(long);
    function *gives(void) { return pointed; }
    NEVER_INLINE static long in_table(long x) { return ask(102) + x; }
    static function *volatile table[2] = {in_table, in_table};
    long uses_table(int i) { return table[i](3); }
    void imports_it(void) { imported(); __asm__ volatile(""); }
    void *imports_address(void) { return (void *)other; }
    long nothing(long x) { return x * 3; }
    long switches(int x) {
        switch (x) {
            case 0: return ask(1); case 1: return ask(2) * 3; case 2: return ask(3) - 5;
            case 3: imported(); return 6; case 4: return ask(5); case 5: return ask(6) ^ 9;
            case 6: return ask(7) + 2; default: return 0;
        }
    }
    """
    )
    found = analysed(tmp_path, source, *LIBRARY, *flags, compiler=compiler)
    assert calls(found, "calls_it") == {"getpid"}
    assert calls(found, "jumps_to_it") == {"getpid"}
    # With relocations in the text it is data's address.
    assert calls(found, "gives") | calls(found) >= {"gettid"}
    assert calls(found) >= {"getuid"}
    assert calls(found, "uses_table") <= {"getuid"}
    assert calls(found, "nothing") == set()
    assert imports(found, "imports_it") == {"imported"}
    assert imports(found, "imports_address") == {"other"}
    assert calls(found, "switches") == {
        "write", "open", "close", "fstat", "lstat", "poll",
    }  # fmt: skip
    assert imports(found, "switches") == {"imported"}
    assert found.unknown == ()


@pytest.mark.parametrize("flags", [("-static-pie",), ("-static",), ("-no-pie",), ("-pie",)])
def test_programs(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """With libc in them or beside them, stripped, at fixed addresses or not."""
    source = """
    #include <stdio.h>
    #include <sys/mman.h>
    #include <unistd.h>
    static int locks(void) { return mlockall(MCL_CURRENT); }
    static int (*volatile pointer)(void) = locks;
    int main(void) { printf("%d\\n", pointer()); return fdatasync(1); }
    """
    path = build(tmp_path, source, "-O2", "-s", *flags)
    found = analyse(ElfFile.open(str(path)))
    assert found.entry is not None
    entered, always = found.classes[found.entry], found.classes[found.always]
    if "-static" in flags[0]:
        assert {75, 151, 1, 231} <= entered.syscalls | always.syscalls
        assert 169 not in entered.syscalls | always.syscalls  # reboot
        assert found.unknown == ()
    else:
        names = {found.imports[at][0] for at in entered.imports | always.imports}
        assert {"fdatasync", "mlockall", "__libc_start_main"} <= names
        assert not entered.syscalls


def test_cold_parts(tmp_path: Path) -> None:
    source = (
        SYSCALL
        + """
    extern void fails(void);
    long hot(long x) {
        if (__builtin_expect(x == 7, 0)) { fails(); return ask(39) + ask(186) * x; }
        return x;
    }
    """
    )
    found = analysed(
        tmp_path, source, *LIBRARY, "-freorder-blocks-and-partition", "-fprofile-use=/dev/null",
        "-Wno-coverage-mismatch", "-Wno-missing-profile",
    )  # fmt: skip
    assert calls(found, "hot") == {"getpid", "gettid"}
    assert imports(found, "hot") == {"fails"}


def test_a_number_that_is_loaded_in_the_hot_part_and_used_in_the_cold_one(tmp_path: Path) -> None:
    source = """
    .section .text.unlikely, "ax"
    .type cold, @function
    cold: .cfi_startproc
     mov %ebx, %eax; syscall; jmp back
    .cfi_endproc
    .text
    .globl hot; .type hot, @function
    hot: .cfi_startproc
     push %rbx; mov $39, %ebx; test %edi, %edi; jne cold
    back: pop %rbx; ret
    .cfi_endproc
    .section .note.GNU-stack, "", @progbits
    """
    found = analysed(tmp_path, source, *LIBRARY, language="S")
    assert calls(found, "hot") == {"getpid"}
    assert found.unknown == ()


def test_landing_pads(tmp_path: Path) -> None:
    """Code that only exceptions lead to, next to the call or in the cold part."""
    source = (
        'extern "C" {'
        + SYSCALL
        + """
    void throws(); void cleans(); void handles();
    NEVER_INLINE static void handler() { ask(39); handles(); }
    struct Cleaner { ~Cleaner() { cleans(); ask(186); } };
    long catches(long x) {
        Cleaner cleaner;
        try { throws(); } catch (int &error) { handler(); return error; }
        return x;
    }
    }
    """
    )
    for compiler in ("g++", "clang++"):
        found = analysed(
            tmp_path, source, "-shared", "-fPIC", "-O2", language="cc", compiler=compiler
        )
        assert calls(found, "catches") == {"getpid", "gettid"}
        assert imports(found, "catches") >= {"throws", "cleans", "handles", "__cxa_begin_catch"}
        assert "__gxx_personality_v0" in imports(found) | imports(found, "catches")


@pytest.mark.parametrize("flags", [(), ("-fexperimental-relative-c++-abi-vtables",)])
def test_vtables(tmp_path: Path, flags: tuple[str, ...]) -> None:
    source = (
        'extern "C" {'
        + SYSCALL
        + """
    struct Base { virtual long work() = 0; virtual long rest() = 0; };
    struct __attribute__((visibility("hidden"))) Derived : Base {
        long work() override { return ask(39); }
        long rest() override { return ask(186); }
    };
    Base *make(void *place) { return new (place) Derived; }
    long use(Base *base) { return base->work(); }
    }
    """
    )
    source = "#include <new>\n" + source
    found = analysed(
        tmp_path, source, "-shared", "-fPIC", "-O2", "-fno-rtti", *flags,
        language="cc", compiler="clang++",
    )  # fmt: skip
    assert calls(found) | calls(found, "make") == {"getpid", "gettid"}


def test_computed_goto(tmp_path: Path) -> None:
    source = (
        SYSCALL
        + """
    long interprets(const unsigned char *code) {
        static void *const labels[] = {&&one, &&two, &&three};
        goto *labels[*code++];
        one: ask(39); goto *labels[*code++];
        two: ask(186); goto *labels[*code++];
        three: return 0;
    }
    long differs(const unsigned char *code) {
        static const int labels[] = {&&one - &&one, &&two - &&one, &&three - &&one};
        goto *(&&one + labels[*code++]);
        one: ask(102); goto *(&&one + labels[*code++]);
        two: ask(104); goto *(&&one + labels[*code++]);
        three: return 0;
    }
    """
    )
    found = analysed(tmp_path, source, *LIBRARY)
    assert calls(found, "interprets") == {"getpid", "gettid"}
    assert calls(found, "differs") == {"getuid", "getgid"}


def test_ifuncs_constructors_and_destructors_always_run(tmp_path: Path) -> None:
    source = (
        SYSCALL
        + """
    static long one(void) { return ask(39); }
    static long two(void) { return ask(186); }
    static void *choose(void) { return ask(102) ? (void *)one : (void *)two; }
    long chosen(void) __attribute__((ifunc("choose")));
    __attribute__((constructor)) static void starts(void) { ask(104); }
    __attribute__((destructor)) static void ends(void) { ask(107); }
    long calls_it(void) { return chosen(); }
    """
    )
    found = analysed(tmp_path, source, *LIBRARY)
    assert calls(found) >= {"getgid", "geteuid"}
    assert calls(found) | calls(found, "chosen") >= {"getpid", "gettid", "getuid"}
    assert calls(found) | calls(found, "calls_it") >= {"getpid", "gettid", "getuid"}


ASSEMBLY = """
.text
.globl outside; .type outside, @function
outside: mov $39, %eax; syscall; ret
.size outside, . - outside
unnamed: mov $186, %eax; syscall; ret
.globl framed; .type framed, @function
framed: .cfi_startproc
 call unnamed; lea constants(%rip), %rax; ret
.cfi_endproc
 .balign 16
constants: .byte 0x06, 0x0f, 0x05, 0xc3, 0x0f, 0x05, 0x48, 0x31, 0xc0, 0xff, 0xff, 0xff
 .balign 16
.globl past_its_end; .type past_its_end, @function
past_its_end: .cfi_startproc
 test %rdi, %rdi; mov $435, %eax
.cfi_endproc
 syscall; test %eax, %eax; jz 1f; ret
1: mov $60, %eax; syscall; hlt
 .balign 16
 nop
.cfi_startproc simple
.cfi_signal_frame
.cfi_undefined rip
early:
.globl restores; .type restores, @function
restores: mov $15, %rax; syscall
.cfi_endproc
.globl falls; .type falls, @function
 .balign 16
falls: .cfi_startproc
 mov $102, %eax
.cfi_endproc
.globl into; .type into, @function
into: .cfi_startproc
 nop; mov $104, %ecx; syscall; ret
.cfi_endproc
.globl old; .type old, @function
old: .cfi_startproc
 mov $20, %eax; int $0x80; ret
.cfi_endproc
.globl locked; .type locked, @function
locked: .cfi_startproc
 cmpl $0, %fs:24; je 1f; lock; 1: cmpxchg %ecx, (%rdi); mov $24, %eax; syscall; ret
.cfi_endproc
.section .note.GNU-stack, "", @progbits
"""


def test_assembly(tmp_path: Path) -> None:
    """Code without frame tables, constants between functions, code past its frame's end."""
    found = analysed(tmp_path, ASSEMBLY, *LIBRARY, language="S")
    assert calls(found, "outside") == {"getpid"}
    assert calls(found, "framed") == {"gettid"}
    assert calls(found, "past_its_end") == {"clone3", "exit"}
    assert calls(found, "restores") == {"rt_sigreturn"}
    assert calls(found, "locked") == {"sched_yield"}
    # Whoever comes from above has loaded 102; whoever calls it has not said.
    assert is_unknown(found, "falls")
    assert is_unknown(found, "into")
    assert found.flags == {"int80"}
    assert {site.function for site in found.unknown} == {"into"}


def test_a_frame_that_begins_a_byte_early(tmp_path: Path) -> None:
    """As glibc's __restore_rt: the byte before belongs to the frame, not to the code."""
    source = """
    .text
    .byte 0
    .LSTART: .globl restores; .type restores, @function
    restores: mov $15, %rax; syscall
    .LEND:
    .section .eh_frame, "a", @progbits
    .LCIE: .long .LCIEEND - .LCIESTART
    .LCIESTART: .long 0; .byte 1; .string "zRS"; .uleb128 1; .sleb128 -8; .uleb128 16
    .uleb128 1; .byte 0x1b; .byte 0x0c, 7, 8
    .balign 8
    .LCIEEND: .long .LFDEEND - .LFDESTART
    .LFDESTART: .long .LFDESTART - .LCIE; .long (.LSTART - 1) - .; .long .LEND - (.LSTART - 1)
    .uleb128 0
    .balign 8
    .LFDEEND:
    .section .note.GNU-stack, "", @progbits
    """
    found = analysed(tmp_path, source, *LIBRARY, language="S")
    assert calls(found, "restores") == {"rt_sigreturn"}
    assert found.unknown == ()


def test_data_inside_a_function_makes_it_strange_not_wrong(tmp_path: Path) -> None:
    """A jump over bytes that swallow the instructions behind them."""
    source = """
    .text
    .globl jumps; .type jumps, @function
    jumps: .cfi_startproc
     jmp 1f; .byte 0x48, 0xb8
    1: mov $39, %eax; syscall; ret
    .cfi_endproc
    .skip 600, 0x90
    .globl fine; .type fine, @function
    fine: .cfi_startproc
     mov $39, %eax; syscall; ret
    .cfi_endproc
    .section .note.GNU-stack, "", @progbits
    """
    found = analysed(tmp_path, source, *LIBRARY, language="S")
    assert calls(found, "jumps") == {"getpid"} or is_unknown(found, "jumps")
    assert calls(found, "fine") == {"getpid"}
    assert not is_unknown(found, "fine")


def test_own_exports_that_can_be_interposed_are_imports(tmp_path: Path) -> None:
    source = (
        SYSCALL
        + """
    long own(void) { return ask(39); }
    long calls_own(void) { return own() + 1; }
    """
    )
    found = analysed(tmp_path, source, *LIBRARY, "-fno-inline", "-fsemantic-interposition")
    assert calls(found, "calls_own") == {"getpid"}
    assert imports(found, "calls_own") == {"own"}


def test_versions(tmp_path: Path) -> None:
    script = tmp_path / "versions"
    script.write_text("V1 { global: old; }; V2 { global: new; local: *; } V1;\n")
    source = SYSCALL + "long old(void) { return ask(39); }\nlong new(void) { return ask(186); }\n"
    found = analysed(tmp_path, source, *LIBRARY, f"-Wl,--version-script={script}")
    assert set(found.exports) == {("old", "V1"), ("new", "V2"), ("V1", "V1"), ("V2", "V2")}
    for key, which in found.exports.items():
        if key[0] in ("old", "new"):
            vaddr = next(at for at, of in found.addresses.items() if of == which)
            assert found.classes[found.addresses[vaddr]] == found.classes[which]


def test_lld_and_gold_link_the_same(tmp_path: Path) -> None:
    source = (
        SYSCALL
        + """
    extern void imported(void);
    NEVER_INLINE static long direct(void) { return ask(39); }
    long calls_it(void) { imported(); return direct() + 1; }
    long nothing(long x) { return x; }
    """
    )
    for linker in ("gold", "bfd"):
        found = analysed(tmp_path, source, *LIBRARY, f"-fuse-ld={linker}")
        assert calls(found, "calls_it") == {"getpid"}
        assert imports(found, "calls_it") == {"imported"}
        assert not imports(found, "nothing")


def test_stripping_changes_nothing(tmp_path: Path) -> None:
    source = SYSCALL + "long f(void) { return ask(39); }\nlong g(void) { return f() + 1; }\n"
    path = build(tmp_path, source, *LIBRARY)
    before = analyse(ElfFile.open(str(path)))
    subprocess.run(["strip", "--strip-all", str(path)], check=True)
    data = bytearray(path.read_bytes())
    data[0x28:0x30], data[0x3A:0x40] = bytes(8), bytes(6)  # no section headers either
    path.write_bytes(bytes(data))
    after = analyse(ElfFile.open(str(path)))
    assert after.to_json() == before.to_json()
