"""Thread-local variables that one domain has and another uses."""

from __future__ import annotations

import resource
import signal
import threading
from collections.abc import Callable

import pytest

from spidl import domains
from spidl.domains import Domain, Interface, domain
from spidl.domains.slots import bound
from spidl.domains.symbols import Slot
from spidl.elf import R
from spidl.testing import expect

from .conftest import Workshop, call, python

OWNER = """
__thread long before[3] = {7, 8, 9};
__thread long theirs = 5;
__thread long *pointer = &other_data;
long get(void) { return theirs; }
"""
USER = """
extern __thread long theirs, before[3]; extern __thread long *pointer;
long bump(long by) { theirs += by; return theirs * 100 + before[2] * 10 + *pointer; }
void *where(void) { return &theirs; }
"""
MODELS = {
    "general dynamic": ("-ftls-model=global-dynamic",),
    "descriptors": ("-mtls-dialect=gnu2",),
    "initial exec": ("-ftls-model=initial-exec",),
}


def in_thread(function: Callable[[], object]) -> object:
    """What a function gives in a new thread."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def owner(workshop: Workshop, name: str = "owner", *flags: str) -> Domain:
    return workshop.domain(name, "long other_data = 3;" + OWNER, *flags)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("started", ["the source runs", "both start together"])
def test_a_thread_local_variable_is_shared(workshop: Workshop, model: str, started: str) -> None:
    """Each thread has its own, and both domains see it, in threads of before and after."""
    source, user = owner(workshop), workshop.domain("user", USER, *MODELS[model])
    assert set(user.unresolved) == {"theirs", "before", "pointer"}
    early = threading.Thread(target=lambda: seen.append((begin.wait(), bump(1))))
    begin, seen = threading.Event(), list[object]()
    early.start()
    if started == "the source runs":
        domains.initialize(source)
    assert set(domains.resolve(source, user)) == {"theirs", "before", "pointer"}
    with expect("domain/not-running"):
        call(user, "long bump(long by);", 1)
    domains.initialize(user)
    bump = domains.client(user, Interface("long bump(long by);")).bump
    assert bump(2) == 793
    assert call(source, "long get(void);") == 7
    assert in_thread(lambda: (bump(10), call(source, "long get(void);"))) == (1593, 15)
    assert call(source, "long get(void);") == 7
    begin.set()
    early.join()
    assert seen == [(True, 693)]


@pytest.mark.parametrize("model", MODELS)
def test_a_new_version_has_variables_of_its_own(workshop: Workshop, model: str) -> None:
    old, new = owner(workshop, "old"), owner(workshop, "new")
    user = workshop.domain("user", USER, *MODELS[model])
    domains.resolve(old, user)
    domains.initialize(user)
    domains.initialize(new)
    assert call(user, "long bump(long by);", 1) == 693
    with expect("domain/in-use"):
        domains.close(old)
    domains.unresolve(old, user)
    domains.resolve(new, user)
    domains.close(old)
    assert call(user, "long bump(long by);", 0) == 593
    assert in_thread(lambda: call(user, "long bump(long by);", 1)) == 693


def test_descriptors_outlive_who_asked_for_them(workshop: Workshop) -> None:
    """Those of storage that is not static have an argument in memory of the owner's."""
    source, user = owner(workshop), workshop.domain("user", USER, *MODELS["descriptors"])
    domains.resolve(source, user)
    domains.initialize(user)
    others = [owner(workshop, f"other{number}") for number in range(8)]
    for number, other in enumerate(others):
        again = workshop.domain(f"again{number}", USER, *MODELS["descriptors"])
        domains.resolve(other, again)
        domains.initialize(again)
        assert in_thread(lambda: call(user, "long bump(long by);", 1)) == 693


def test_storage_that_cannot_be_static_any_more(workshop: Workshop) -> None:
    """glibc has given the variable a place in some thread's own memory: too late."""
    source = owner(workshop)
    domains.initialize(source)
    assert call(source, "long get(void);") == 5
    user = workshop.domain("user", USER, *MODELS["initial exec"])
    domains.resolve(source, user)
    with expect("domain/tls"):
        domains.initialize(user)
    assert not user.is_running
    with expect("domain/not-running"):
        call(user, "long bump(long by);", 1)
    domains.unresolve(source, user)
    domains.resolve(owner(workshop, "fresh"), user)
    domains.initialize(user)
    assert call(user, "long bump(long by);", 0) == 593


def test_without_descriptors_nothing_is_bound(workshop: Workshop) -> None:
    source, user = owner(workshop), workshop.domain("user", USER, *MODELS["descriptors"])
    domains.resolve(source, user)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with expect("domain/tls"):
            domains.initialize(user)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not user.is_running
    domains.initialize(user)
    assert call(user, "long bump(long by);", 0) == 593


@pytest.mark.parametrize("model", MODELS)
def test_an_unresolved_variable_is_out_of_reach(workshop: Workshop, model: str) -> None:
    source = workshop.object("source", "long other_data = 3;" + OWNER)
    text = "extern __thread volatile long theirs; void run(void) { while (theirs == 5) ; }"
    user = workshop.object("user", text, "-O0", *MODELS[model])
    script = """if True:
        import sys, threading
        from spidl import domains
        from spidl.domains import Domain, Interface
        user, source = (Domain.create(path) for path in sys.argv[1:])
        for each in user, source:
            domains.resolve(domains.RUNTIME, each)
        domains.resolve(source, user)
        domains.initialize(user)
        thread = threading.Thread(target=domains.client(user, Interface("void run(void);")).run)
        thread.start()
        print("running", flush=True)
        domains.unresolve(source, user)
        thread.join()
        print("went on")
    """
    result = python(script, str(user), str(source))
    assert (result.stdout, result.returncode) == ("running\n", -signal.SIGSEGV)


def test_what_is_thread_local_for_one_only(workshop: Workshop) -> None:
    plain, thread = workshop.domain("plain", "int v = 1;"), workshop.domain("t", "__thread int v;")
    text = "int f(void) { return v; }"
    with expect("domain/wrong-type"):
        domains.resolve(plain, workshop.domain("one", "extern __thread int v;" + text))
    with expect("domain/wrong-type"):
        domains.resolve(thread, workshop.domain("two", "extern int v;" + text))


def test_a_weak_thread_local_variable_must_be_resolved(workshop: Workshop) -> None:
    text = "extern __thread int v __attribute__((weak)); int f(void) { return v; }"
    assert workshop.domain("weak", text).unresolved == ("v",)


def test_the_processs_own_are_not_given_away() -> None:
    """dlsym would give the calling thread's."""
    with expect("domain/tls"):
        Domain.from_process(["errno"])


def test_interfaces_name_them_for_domains_and_not_for_python(workshop: Workshop) -> None:
    source = owner(workshop)
    header = Interface("extern _Thread_local long theirs, before[3]; extern long *pointer;", "T")
    view = Domain.from_interface(header, source)
    assert view.exports == {"theirs", "before", "pointer"}
    user = workshop.domain("user", USER)
    domains.resolve(view, user)
    domains.initialize(user)
    assert call(user, "long bump(long by);", 0) == 593
    with expect("domain/tls"):
        domains.client(view, header)


def test_damaged_relocations_of_thread_local_storage(workshop: Workshop) -> None:
    """A module number without any PT_TLS."""
    made = workshop.library("tls", "static __thread int v; int *f(void) { return &v; }")
    content = bytearray(made.read_bytes())
    table, count = int.from_bytes(content[32:40], "little"), content[56]
    for at in range(table, table + 56 * count, 56):
        if content[at] == 7:  # PT_TLS
            content[at] = 0
    made.write_bytes(content)
    with expect("domain/tls"):
        Domain.create(made)


def test_addends(workshop: Workshop) -> None:
    """Compilers use none here; the psABI's formulas have them."""
    source = owner(workshop)
    user = workshop.domain("user", USER, *MODELS["initial exec"])
    domains.resolve(source, user)
    domains.initialize(user)  # the storage is static now
    symbol = domain._domains.of(source).exports["before"].default
    assert symbol is not None
    for kind in (R.DTPOFF64, R.TPOFF64):
        (zero,), (eight,) = (bound(Slot(64, by, True, kind), symbol, 0) for by in (0, 8))
        assert zero[0] == eight[0] == 64
        assert eight[1] - zero[1] == 8
