"""Unresolve and resolve while threads run the code."""

from __future__ import annotations

import signal
import threading
import time

from spidl import domains
from spidl.domains import Domain, Interface
from spidl.testing import expect

from .conftest import Workshop, call, python

CALLS = 2_000_000
LOOP = """
struct big { long a, b, c; };
struct big add(struct big one, double x, long n, long m, long o, long p, long q, double y);
int version(void);
int stop;
long by_version[3];
long wrong;
long run(long calls) {
    long done = 0;
    for (; !__atomic_load_n(&stop, __ATOMIC_RELAXED) || done < calls; done++) {
        struct big s = add((struct big){done, 1, 2}, 0.5, 3, 4, 5, 6, 7, 1.5);
        if (s.a != done + 25 || s.b != 1 || s.c != 2) __atomic_add_fetch(&wrong, 1, 0);
        __atomic_add_fetch(&by_version[version()], 1, 0);
    }
    return done;
}
void finish(void) { __atomic_store_n(&stop, 1, 0); }
"""
ADD = """
struct big { long a, b, c; };
struct big add(struct big one, double x, long n, long m, long o, long p, long q, double y) {
    long sum = n + m + o + p + q - (long)(x * 2) + (long)(y * 2) - 2;
    return (struct big){one.a + sum, one.b, one.c};
}
int version(void) { return VERSION; }
"""
TYPES = Interface("long run(long calls); void finish(void); extern long by_version[3], wrong;")


def versions(workshop: Workshop) -> tuple[Domain, Domain]:
    one = workshop.domain("one", ADD, "-DVERSION=1")
    two = workshop.domain("two", ADD, "-DVERSION=2")
    domains.initialize(one)
    domains.initialize(two)
    return one, two


def test_thousands_of_swaps_under_running_callers(workshop: Workshop) -> None:
    """Arguments in registers of all classes and on the stack arrive, and no call is lost."""
    loop, (one, two) = workshop.domain("loop", LOOP), versions(workshop)
    domains.resolve(one, loop)
    domains.initialize(loop)
    functions = domains.client(loop, TYPES)
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda: results.append(functions.run(CALLS))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    old, new = one, two
    for number in range(5000):
        assert set(domains.unresolve(old, loop)) == {"add", "version"}
        if number % 50 == 0:
            time.sleep(0.001)  # now they certainly wait
        assert set(domains.resolve(new, loop)) == {"add", "version"}
        old, new = new, old
    functions.finish()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert functions.wrong[0] == 0
    counted = list(functions.by_version[0])
    assert counted[0] == 0
    assert min(counted[1:]) > 0
    assert sum(counted) == sum(results)


def test_a_call_waits_until_it_is_resolved_again(workshop: Workshop) -> None:
    text = "int next(int); int at; int run(void) { while (at < 1000) at = next(at); return at; }"
    loop = workshop.domain("waiting", text)
    step = workshop.domain("step", "int go(void); int next(int n) { return go() ? n + 1 : n; }")
    reached, may_go = threading.Event(), threading.Event()

    def go() -> int:
        reached.set()
        may_go.wait()
        return 1

    domains.resolve(Domain.from_interface(Interface("int go(void);"), {"go": go}), step)
    domains.resolve(step, loop)
    domains.initialize(loop)
    functions = domains.client(loop, Interface("int run(void); extern int at;"))
    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(functions.run()))
    thread.start()
    reached.wait()  # it is inside `next`
    domains.unresolve(step, loop)
    may_go.set()
    thread.join(0.5)
    assert thread.is_alive()
    assert functions.at[0] == 1  # what was inside has returned; the next call waits
    other = workshop.domain("other", "int next(int n) { return n + 10; }")
    domains.initialize(other)
    domains.resolve(other, loop)
    thread.join(20)
    assert result == [1001]


def test_calls_wait_each_time(workshop: Workshop) -> None:
    """Not only the first time that a symbol is taken away; what waits meanwhile is not lost."""
    user = workshop.domain("user", "int f(void); int (*hook)(void) = f;"
                           "int g(void) { return f() * 10 + hook(); }")  # fmt: skip
    old, new = (workshop.domain(f"v{n}", f"int f(void) {{ return {n}; }}") for n in (1, 2))
    outer = workshop.domain("outer", "int g(void); int h(void) { return g(); }")
    domains.resolve(old, user)
    domains.resolve(user, outer)
    for each in (outer, new):
        domains.initialize(each)
    h = domains.client(outer, Interface("int h(void);")).h
    result: list[int] = []
    for source, other in ((old, new), (new, old), (old, new)):
        domains.unresolve(source, user)
        thread = threading.Thread(target=lambda: result.append(h()))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        domains.resolve(other, user)
        thread.join(20)
    assert result == [22, 11, 22]


def test_an_old_version_stays_until_it_is_quiescent(workshop: Workshop) -> None:
    user = workshop.domain("user", "int f(void); int g(void) { return f() + 1; }")
    inside, may_go = threading.Event(), threading.Event()

    def block() -> int:
        inside.set()
        may_go.wait()
        return 40

    old = workshop.domain("old", "int block(void); int f(void) { return block() + 1; }")
    domains.resolve(Domain.from_interface(Interface("int block(void);"), {"block": block}), old)
    domains.resolve(old, user)
    domains.initialize(user)
    g = domains.client(user, Interface("int g(void);")).g
    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(g()))
    thread.start()
    inside.wait()
    with expect("domain/in-use"):  # somebody is bound to it
        domains.close(old)
    domains.unresolve(old, user)
    new = workshop.domain("new", "int f(void) { return 1; }")
    domains.initialize(new)
    domains.resolve(new, user)
    assert g() == 2
    with expect("domain/in-use"):  # somebody is inside
        domains.close(old)
    may_go.set()
    thread.join()
    assert result == [42]
    domains.close(old)


def test_a_domain_is_not_closed_under_a_call_to_it(workshop: Workshop) -> None:
    inside, may_go = threading.Event(), threading.Event()
    refused: list[str] = []
    domain = workshop.domain("busy", "int block(void); int f(void) { return block() + 1; }")

    def block() -> int:
        inside.set()
        may_go.wait()
        with expect("domain/in-use"):  # from inside, too
            domains.close(domain)
        refused.append("inside")
        return 1

    domains.resolve(Domain.from_interface(Interface("int block(void);"), {"block": block}), domain)
    domains.initialize(domain)
    f = domains.client(domain, Interface("int f(void);")).f
    result: list[int] = []
    thread = threading.Thread(target=lambda: result.append(f()))
    thread.start()
    inside.wait()
    with expect("domain/in-use"):
        domains.close(domain)
    may_go.set()
    thread.join()
    assert (result, refused) == ([2], ["inside"])
    assert f() == 2  # what was refused changed nothing
    domains.close(domain)
    with expect("domain/not-running"):
        f()


def test_startup_code_cannot_close_what_it_is(workshop: Workshop) -> None:
    text = """
    int leave(void);
    int was;
    int f(void) { return was; }
    __attribute__((constructor)) static void go(void) { was = leave(); }
    """
    domain = workshop.domain("self", text)

    def leave() -> int:
        with expect("domain/in-use"):
            domains.close(domain)
        return 7

    python_side = Domain.from_interface(Interface("int leave(void);"), {"leave": leave})
    domains.resolve(python_side, domain)
    domains.initialize(domain)
    assert call(domain, "int f(void);") == 7


def test_data_of_an_unresolved_domain_is_out_of_reach(workshop: Workshop) -> None:
    """A variable cannot wait: who reads it ends with SIGSEGV instead of going on with garbage."""
    text = "extern volatile int data; int run(void) { while (data == 5) ; return data; }"
    reader = workshop.object("reader", text, "-O0")  # the slot is read in each turn
    source = workshop.object("source", "int data = 5;")
    script = """if True:
        import sys, threading
        from spidl import domains
        from spidl.domains import Domain, Interface
        reader, source = (Domain.create(path) for path in sys.argv[1:])
        domains.resolve(source, reader)
        domains.initialize(reader)
        run = domains.client(reader, Interface("int run(void);")).run
        thread = threading.Thread(target=run)
        print("running", flush=True)
        thread.start()
        domains.unresolve(source, reader)
        thread.join()
        print("went on")
    """
    result = python(script, str(reader), str(source))
    assert (result.stdout, result.returncode) == ("running\n", -signal.SIGSEGV)


def test_relro_is_read_only_again_after_each_swap(workshop: Workshop) -> None:
    user = workshop.domain("relro", "int f(void); int g(void) { return f(); }")
    one = workshop.domain("one", "int f(void) { return 1; }")
    domains.resolve(one, user)
    domains.initialize(user)

    def permissions() -> list[str]:
        with open("/proc/self/maps") as file:
            return [line.split()[1] for line in file if "/relro.so" in line]

    before = permissions()
    domains.unresolve(one, user)
    domains.resolve(one, user)
    assert permissions() == before
    assert not any("w" in found and "x" in found for found in before)
    assert call(user, "int g(void);") == 1
