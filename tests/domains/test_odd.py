"""Objects that are not what a C compiler makes of plain C."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from spidl import domains
from spidl.domains import Domain, Interface
from spidl.testing import expect
from tests.needs import tool

from .conftest import Workshop, call

CXX = """
extern "C" int note(int);
struct Noisy { Noisy() { note(1); } ~Noisy() { note(2); } };
static Noisy noisy;
inline int counted() { static int n = note(4); return ++n; }
extern "C" int f() { try { throw 7; } catch (int n) { return counted() + n; } }
"""


def test_cxx_with_all_that_it_needs(workshop: Workshop, tmp_path: Path) -> None:
    """Exceptions, guarded statics; destructors of static objects run when the domain is closed."""
    source, made = tmp_path / "noisy.cc", tmp_path / "noisy.so"
    source.write_text(CXX)
    compiler = tool("c++", "g++")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    ctypes.CDLL("libstdc++.so.6", mode=os.RTLD_GLOBAL)
    domain, seen = Domain.create(made), list[int]()
    notes = {"note": lambda n: seen.append(n) or n}
    domains.resolve(Domain.from_interface(Interface("int note(int);"), notes), domain)
    domains.resolve(Domain.from_process([*domain.unresolved, "__cxa_finalize"]), domain)
    domains.initialize(domain)
    assert (call(domain, "int f(void);"), call(domain, "int f(void);")) == (12, 13)
    assert seen == [1, 4]
    domains.close(domain)
    assert seen == [1, 4, 2]


ODD = {
    "common symbols": ("int c[9]; int w __attribute__((weak)) = 3;"
                       "int f(void) { c[1] = 4; return c[1] + w; }", ("-fcommon",), 7),
    "priorities": ("static int n; int f(void) { return n; }"
                   "__attribute__((constructor(300))) static void c(void) { n = n * 10 + 3; }"
                   "__attribute__((constructor(101))) static void a(void) { n = n * 10 + 1; }"
                   "__attribute__((constructor(200))) static void b(void) { n = n * 10 + 2; }",
                   (), 123),
    "old constructors": ("static int n; int f(void) { return n; } static void c(void) { n = 5; }"
                         "static void (*const p)(void) __attribute__((section(\".ctors\"), used))"
                         " = c;", (), 5),
    "_init": ("static int n; void _init(void) { n = 6; } int f(void) { return n; }", (), 6),
    "large model": ("static int n = 5; const char *s = \"abc\"; int f(void) { return n + s[1]; }",
                    ("-mcmodel=large",), 103),
    "control flow": ("int f(void); int g(int a) { switch (a) { case 0: return 1; case 1: return 3;"
                     " case 2: return f(); case 3: return 9; case 4: return 12; } return a; }"
                     " int (*volatile p)(int) = g; int f(void) { return p(3); }",
                     ("-fcf-protection=full",), 9),
    "merged strings": ("const char *a = \"hello\", *b = \"lo\";"
                       "const char *const t[] = {a2, \"yx\"};"
                       " int f(void) { return a[3] == b[0] && t[0][0] == t[1][1]; }",
                       ("-Da2=\"x\"",), 1),
    "packed data": ("static int g(void) { return 3; } struct __attribute__((packed)) "
                    "{ char c; int (*p)(void); } x = {1, g}; int f(void) { return x.p(); }", (), 3),
    "link-time optimisation": ("static int g(void) { return 8; } int f(void) { return g(); }",
                               ("-flto",), 8),
    "indirect in data": ("static int two(void) { return 2; } static int (*choose(void))(void) "
                         "{ return two; } int g(void) __attribute__((ifunc(\"choose\")));"
                         "int (*p[2])(void) = {g, g}; int f(void) { return p[0]() + p[1](); }",
                         (), 4),
    "large alignment": ("static char v[8] __attribute__((aligned(1 << 21))) = {1};"
                        "int f(void) { char *volatile p = v; return ((long)p & 0x1fffff) + *p; }",
                        (), 1),
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_odd_objects(workshop: Workshop, what: str) -> None:
    text, flags, result = ODD[what]
    domain = workshop.domain("odd", text, *flags)
    domains.initialize(domain)
    assert call(domain, "int f(void);") == result
    domains.close(domain)


ASSEMBLY = """
    .section .note.GNU-stack,"",@progbits
    .text
    .globl number; .set number, 0x1234
    .globl f; .type f, @function
f:  movabs $number, %rax
    add local(%rip), %rax
    sub $f, %rax
    ret
    .data
    .globl table; .type table, @object
table: .quad f
    .globl untyped
untyped:
local: .quad 1
"""


def test_symbols_of_assembly(workshop: Workshop) -> None:
    """Absolute ones are numbers and are not exported; untyped ones are what lies there."""
    source, made = workshop.folder / "made.s", workshop.folder / "made.o"
    source.write_text(ASSEMBLY.replace("    sub $f, %rax\n", ""))
    subprocess.run([tool("cc", "gcc"), "-c", "-o", str(made), str(source)], check=True)
    domain = Domain.create(made)
    assert domain.exports == {"f", "table", "untyped"}
    domains.initialize(domain)
    variables = domains.client(domain, Interface("extern long table, untyped;"))
    assert call(domain, "long f(void);") == 0x1235
    assert variables.table[0] != 0
    with expect("domain/wrong-type"):
        domains.client(domain, Interface("int untyped(void);"))
    source.write_text(ASSEMBLY)  # an address in text
    subprocess.run([tool("cc", "gcc"), "-c", "-o", str(made), str(source)], check=True)
    with expect("domain/compile"):
        Domain.create(made)


def test_an_import_that_is_not_aligned(workshop: Workshop) -> None:
    text = "int g(void); struct __attribute__((packed)) { char c; int (*p)(void); } x = {1, g};"
    with expect("domain/relocation"):
        workshop.domain("packed", text)
