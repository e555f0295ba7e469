"""Object files of all kinds become domains, or are refused with a reason."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from spidl import domains
from spidl.domains import Domain
from spidl.testing import expect

from .conftest import Workshop, call, python

THREAD = """
static __thread long zero, five = 5; __thread long *pointer;
long f(void) { five++; zero += 2; pointer = &five; return *pointer * 100 + zero; }
"""


@pytest.mark.parametrize(
    "flags", [("-ftls-model=global-dynamic",), ("-ftls-model=initial-exec",),
              ("-mtls-dialect=gnu2",), ("-ftls-model=local-dynamic",)],
)  # fmt: skip
def test_thread_local_storage(workshop: Workshop, flags: tuple[str, ...]) -> None:
    domain = workshop.domain("thread", THREAD, *flags)
    domains.initialize(domain)
    assert [call(domain, "long f(void);") for _ in range(2)] == [602, 704]
    other: list[int] = []
    thread = threading.Thread(target=lambda: other.append(call(domain, "long f(void);")))
    thread.start()
    thread.join()
    assert other == [602]


@pytest.mark.parametrize(
    "flags", [(), ("-Wl,-z,now",), ("-Wl,-z,pack-relative-relocs",), ("-Wl,-z,norelro",),
              ("-fno-plt",), ("-Wl,-Bsymbolic",), ("-Wl,--hash-style=sysv",), ("-nostdlib",)],
)  # fmt: skip
def test_shared_libraries_of_all_kinds(workshop: Workshop, flags: tuple[str, ...]) -> None:
    text = """
    int give(int); extern int number;
    static int table[4] = {1, 2, 3, 4};
    int *places[] = {table, table + 1, &number};
    int (*functions[])(int) = {give, 0};
    int f(int n) { return give(n) + functions[0](n) + *places[1] + *places[2]; }
    """
    domain = Domain.create(workshop.library("kinds", text, *flags))
    source = workshop.domain("source", "int number = 100; int give(int n) { return n * 10; }")
    assert set(domain.unresolved) == {"give", "number"}
    domains.resolve(source, domain)
    domains.initialize(domain)
    assert call(domain, "int f(int n);", 3) == 30 + 30 + 2 + 100


def test_own_indirect_functions(workshop: Workshop) -> None:
    text = """
    static int two(void) { return 2; }
    static int (*choose(void))(void) { return two; }
    static int hidden(void) __attribute__((ifunc("choose")));
    int shown(void) __attribute__((ifunc("choose")));
    int (*pointer)(void) = shown;
    int f(void) { return hidden() * 100 + shown() * 10 + pointer(); }
    """
    domain = workshop.domain("indirect", text)
    domains.initialize(domain)
    assert call(domain, "int f(void);") == 222
    assert call(domain, "int shown(void);") == 2


def test_two_domains_of_one_file_have_data_of_their_own(workshop: Workshop) -> None:
    made = workshop.object("twice", "static int n; int f(void) { return ++n; }")
    one, two = Domain.create(made), Domain.create(made)
    for each in (one, two):
        domains.initialize(each)
    assert [call(d, "int f(void);") for d in (one, one, two, one)] == [1, 2, 1, 3]


def test_startup_code_runs_in_order_of_dependence(workshop: Workshop) -> None:
    first = workshop.domain("first", "int ready; __attribute__((constructor)) static void go(void)"
                            "{ ready = 1; }")  # fmt: skip
    text = (
        "extern int ready; int seen; int f(void) { return seen; }"
        "__attribute__((constructor)) static void go(void) { seen = ready; }"
    )
    second = workshop.domain("second", text)
    domains.resolve(first, second)
    domains.initialize(second)
    assert call(second, "int f(void);") == 1


def test_what_is_no_object(workshop: Workshop, tmp_path: Path) -> None:
    with expect("parse/not-found"):
        Domain.create(tmp_path / "absent.o")
    text = tmp_path / "text.o"
    text.write_text("not an object")
    with expect("parse/not-elf"):
        Domain.create(text)
    with expect("live/not-a-library"):
        Domain.create(shutil.which("true") or "/bin/true")
    broken = tmp_path / "broken.o"
    broken.write_bytes(workshop.object("good", "int f;").read_bytes()[:100])
    with expect("domain/compile"):
        Domain.create(broken)


def test_without_a_compiler(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    made = workshop.object("good", "int f;")
    monkeypatch.setenv("CC", "/nonexistent/cc -O2")
    with expect("domain/no-compiler"):
        Domain.create(made)


def test_symbols_that_the_process_does_not_have() -> None:
    with expect("domain/no-symbol"):
        Domain.from_process(["strlen", "no_such_function"])
    with expect("domain/no-symbol"):
        Domain.from_process(["strlen\0x"])


def test_damaged_files_raise_nothing_but_link_errors(workshop: Workshop) -> None:
    """A few hundred mutants of a library, each placed if it can be, in a process of its own.

    It has versions, an indirect function, and thread-local variables of its own and of others.
    """
    script_of_versions = workshop.folder / "mutant.map"
    script_of_versions.write_text("V1 { local: old; }; V2 { global: f; h; n; p; q; t; } V1;")
    made = workshop.library("mutant", "int g(int); int n = 3; int *p = &n; __thread int t;"
                            "extern __thread int other; extern int data; int *q = &data;"
                            "static int (*choose(void))(int) { return g; }"
                            'int h(int) __attribute__((ifunc("choose")));'
                            '__asm__(".symver old, f@V1"); int old(void) { return 1; }'
                            "int f(void) { return h(*p) + g(*q) + t + other; }", "-nostdlib",
                            f"-Wl,--version-script={script_of_versions}")  # fmt: skip
    script = """if True:
        import random, sys
        from spidl.diagnostics import LinkError
        from spidl import domains
        from spidl.domains import Domain, Interface
        path, original = sys.argv[1], bytearray(open(sys.argv[1], "rb").read())
        chance, refused, placed = random.Random(7), 0, 0
        g = Domain.from_interface(Interface("int g(int n);"), {"g": lambda n: n})
        for number in range(300):
            content = bytearray(original)
            for _ in range(chance.choice((1, 2, 8))):
                area = chance.choice((64, 1024, len(content)))
                value = chance.choice((0, 1, 255, chance.randrange(256)))
                content[chance.randrange(4, area)] = value
            mutant = f"{path}.{number}"
            with open(mutant, "wb") as file:
                file.write(content)
            try:
                domain = Domain.create(mutant)
                placed += 1
                domains.resolve(g, domain)
                domains.unresolve(g, domain)
                domains.close(domain)
            except LinkError:
                refused += 1
        print(placed, refused)
    """
    result = python(script, str(made))
    assert (result.stderr, result.returncode) == ("", 0)
    placed, refused = map(int, result.stdout.split())
    assert placed > 50
    assert refused > 50
