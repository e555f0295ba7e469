"""Operations that meet: from inside each other, from several threads, across a fork."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from spidl import domains
from spidl.diagnostics import LinkError
from spidl.domains import Domain, Interface
from spidl.testing import expect

from .conftest import Workshop, call

HOOK = Interface("int hook(void);")
TIMEOUT = 20
"""Seconds, for a test that goes wrong."""


def hooked(domain: Domain, hook: Callable[[], int]) -> Domain:
    """Let a domain's ``hook`` be a Python function; gives the source."""
    source = Domain.from_interface(HOOK, {"hook": hook})
    domains.resolve(source, domain)
    return source


def in_child(function: Callable[[], object]) -> int:
    """Run something in a process that was forked; gives its wait status."""
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(TIMEOUT)
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def test_destructors_cannot_close_what_they_are(workshop: Workshop) -> None:
    """The memory would go away under the code that runs."""
    text = (
        "int hook(void); int f(void) { return 1; } static int got;"
        "__attribute__((destructor)) static void end(void) { got = hook() + 1; }"
    )
    domain = workshop.domain("ending", text)
    refused: list[int] = []

    def hook() -> int:
        for sure in (False, True):
            with expect("domain/in-use"):
                domains.close(domain, sure=sure)
            refused.append(1)
        with expect("domain/not-running"):
            call(domain, "int f(void);")
        with expect("domain/closed"):
            domains.initialize(domain)
        return 3

    hooked(domain, hook)
    domains.initialize(domain)
    domains.close(domain)
    assert refused == [1, 1]


def test_startup_code_and_destructors_that_are_interrupted(workshop: Workshop) -> None:
    """Ctrl-C while they run: each runs once, all the same."""
    text = "".join(
        f"__attribute__(({kind}({101 + number}))) static void {kind}{number}(void)"
        f"{{ log = log * 10 + {number}; if ({number} == 2) raise(2); }}"
        for kind in ("constructor", "destructor")
        for number in (1, 2, 3)
    )
    state = workshop.domain("state", "long log;")
    domain = workshop.domain("slow", "int raise(int); extern long log;" + text)
    domains.resolve(Domain.from_process(["raise"]), domain)
    domains.resolve(state, domain)
    with pytest.raises(KeyboardInterrupt):
        domains.initialize(domain)
    assert not domain.is_running
    with expect("domain/in-use"):
        domains.close(domain)
    domains.initialize(domain)
    assert domain.is_running
    log = domains.client(state, Interface("extern long log;")).log
    assert log[0] == 123
    log[0] = 0
    with pytest.raises(KeyboardInterrupt):
        domains.close(domain)
    domains.close(domain)
    assert log[0] == 321


def test_what_a_python_export_may_do_while_code_is_inside(workshop: Workshop) -> None:
    """It replaces the version that called it: the call returns into the old one."""
    old = workshop.domain("old", "int hook(void); int y(int n) { return hook() + n; }")
    new = workshop.domain("new", "int y(int n) { return 100 + n; }")
    user = workshop.domain("user", "int y(int); int x(int n) { return y(n) * 1000 + y(n); }")

    def hook() -> int:
        domains.unresolve(old, user)
        domains.resolve(new, user)
        with expect("domain/in-use"):
            domains.close(old)
        return 1

    hooked(old, hook)
    domains.initialize(new)
    domains.resolve(old, user)
    domains.initialize(user)
    assert call(user, "int x(int n);", 5) == 6105
    domains.close(old)


def test_what_an_indirect_functions_resolver_may_do(workshop: Workshop) -> None:
    """It runs while its domain starts."""
    text = (
        "int hook(void); static int two(void) { return 2; } static int first;"
        "static int (*choose(void))(void) { hook(); return two; }"
        'int chosen(void) __attribute__((ifunc("choose"))); int f(void) { return first; }'
        "__attribute__((constructor)) static void go(void) { first = chosen(); }"
    )
    domain = workshop.domain("choosing", text, "-fno-stack-protector")
    asked: list[int] = []

    def hook() -> int:
        with expect("domain/in-use"):
            domains.close(domain)
        with expect("domain/not-running"):
            call(domain, "int f(void);")
        domains.initialize(domain)
        assert domains.unresolve(source, domain) == ("hook",)
        assert domains.resolve(source, domain) == ("hook",)
        asked.append(1)
        return 0

    source = hooked(domain, hook)
    domains.initialize(domain)
    assert call(domain, "int f(void);") == 2
    assert asked


def test_a_resolver_that_would_wait_is_not_asked(workshop: Workshop) -> None:
    """It would wait in a gate for a `resolve` that waits for it."""
    text = (
        "int need(void); static int two(void) { return 2; }"
        "static int (*choose(void))(void) { return need() ? two : 0; }"
        'int chosen(void) __attribute__((ifunc("choose")));'
    )
    source, user = workshop.domain("source", text), workshop.domain(
        "user", "int chosen(void); int f(void) { return chosen(); }"
    )  # fmt: skip
    need = workshop.domain("need", "int need(void) { return 1; }")
    domains.resolve(need, source)
    domains.resolve(source, user)
    domains.initialize(user)
    domains.unresolve(source, user)
    domains.unresolve(need, source)
    with expect("domain/not-running"):
        domains.resolve(source, user)
    domains.resolve(need, source)
    domains.resolve(source, user)
    assert call(user, "int f(void);") == 2


def test_a_resolve_that_fails_binds_nothing(workshop: Workshop) -> None:
    one = workshop.domain("one", "int x(void); int f(void) { return x(); }")
    two = workshop.domain("two", "int y(void) __attribute__((weak)); int g(void) { return !y; }")
    domains.initialize(two)
    source = workshop.domain("source", "int x(void) { return 1; } int y(void) { return 2; }")
    with expect("domain/not-running"):  # the second target runs, the source does not
        domains.resolve(source, domains.combine(one, two))
    assert one.unresolved == ("x",)


def test_a_fork_while_another_thread_swaps(workshop: Workshop) -> None:
    user = workshop.domain("user", "int y(void); int x(void) { return y(); }")
    one = workshop.domain("one", "int y(void) { return 1; }")
    two = workshop.domain("two", "int y(void) { return 2; }")
    for each in (one, two):
        domains.initialize(each)
    domains.resolve(one, user)
    domains.initialize(user)
    made = workshop.library("more", "int f(void) { return 1; }", "-nostdlib")
    stop = threading.Event()

    def swap() -> None:
        old, new = one, two
        while not stop.is_set():
            domains.unresolve(old, user)
            domains.resolve(new, user)
            old, new = new, old

    def work() -> None:
        domains.resolve(one, user)
        assert call(user, "int x(void);") in (1, 2)
        more = Domain.create(made)
        domains.initialize(more)
        domains.close(more)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        assert [in_child(work) for _ in range(20)] == [0] * 20
    finally:
        stop.set()
        thread.join()


def test_a_fork_while_another_thread_runs_startup_code(workshop: Workshop) -> None:
    """The child has not that thread, and would wait for its lock for ever."""
    domain = workshop.domain(
        "slow", "int hook(void); __attribute__((constructor)) static void go(void) { hook(); }"
    )
    other = workshop.object("other", "int f(void) { return 1; }")
    inside, may_go = threading.Event(), threading.Event()

    def hook() -> int:
        inside.set()
        return int(may_go.wait(TIMEOUT))

    hooked(domain, hook)
    thread = threading.Thread(target=lambda: domains.initialize(domain))
    thread.start()
    inside.wait()
    threading.Timer(0.2, may_go.set).start()
    assert in_child(lambda: domains.initialize(Domain.create(other))) == 0
    thread.join()
    assert domain.is_running


def test_calls_of_threads_that_a_fork_left_behind_are_over(workshop: Workshop) -> None:
    domain = workshop.domain("busy", "int hook(void); int f(void) { return hook(); }")
    inside, may_go = threading.Event(), threading.Event()

    def hook() -> int:
        if threading.current_thread() is not thread:
            return in_child(lambda: expect_in_use(domain))
        inside.set()
        return int(may_go.wait(TIMEOUT))

    hooked(domain, hook)
    domains.initialize(domain)
    thread = threading.Thread(target=lambda: call(domain, "int f(void);"))
    thread.start()
    inside.wait()
    assert in_child(lambda: domains.close(domain)) == 0
    assert call(domain, "int f(void);") == 0  # who forks from inside is still inside
    may_go.set()
    thread.join()


def expect_in_use(domain: Domain) -> None:
    with expect("domain/in-use"):
        domains.close(domain)


def test_what_is_closed_leaves_nothing_behind(workshop: Workshop) -> None:
    made = workshop.library("many", "int y(void); int x(void) { return y(); }", "-nostdlib")
    source = workshop.domain("source", "int y(void) { return 1; }")
    domains.initialize(source)

    def once() -> None:
        domain = Domain.create(made)
        domains.resolve(source, domain)
        domains.initialize(domain)
        assert call(domain, "int x(void);") == 1
        domains.close(domain)

    def in_use() -> tuple[int, int, int]:
        gc.collect()
        mapped = len(Path("/proc/self/maps").read_text().splitlines())
        return mapped, len(os.listdir("/proc/self/fd")), len(gc.get_objects())

    for _ in range(5):
        once()
    before = in_use()
    for _ in range(50):
        once()
    after = in_use()
    assert after[1] <= before[1]
    assert after[0] - before[0] < 10
    assert after[2] - before[2] < 50 * 4


@pytest.mark.parametrize("seed", [1, 2])
def test_all_operations_from_several_threads(workshop: Workshop, seed: int) -> None:
    """Whatever meets: errors are values, and nothing crashes or waits for ever."""
    files = [
        workshop.library("user", "int y(int); int x(int n) { return y(n); }", "-nostdlib"),
        workshop.library("source", "int y(int n) { return n; }", "-nostdlib"),
    ]
    pool = [Domain.create(files[number % 2]) for number in range(6)]
    y = Interface("int y(int n);")
    done: Counter[str] = Counter()
    failures: list[BaseException] = []

    def renew(one: Domain, other: Domain, at: int) -> None:
        pool[at] = Domain.create(files[at % 2])

    def use(one: Domain, other: Domain, at: int) -> None:
        if "y" in one.exports:
            assert domains.client(one, y).y(3) == 3

    operations: dict[str, Callable[[Domain, Domain, int], object]] = {
        "resolve": lambda one, other, at: domains.resolve(one, other),
        "unresolve": lambda one, other, at: domains.unresolve(one, other),
        "initialize": lambda one, other, at: domains.initialize(one),
        "close": lambda one, other, at: domains.close(one),
        "look": lambda one, other, at: (one.unresolved, one.is_running, one.exports),
        "create": renew, "use": use,
    }  # fmt: skip

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(600):
            name = chance.choice(list(operations))
            one, other, at = chance.choice(pool), chance.choice(pool), chance.randrange(6)
            try:
                operations[name](one, other, at)
                done[name] += 1
            except LinkError as error:
                done[error.code] += 1
            except BaseException as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(4 * seed + n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert set(operations) <= set(done)
