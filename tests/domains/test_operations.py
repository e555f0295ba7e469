"""Create, resolve, unresolve, combine, initialize: the operations of figure 1."""

from __future__ import annotations

import gc
import re
from pathlib import Path

from spidl import domains
from spidl.domains import Domain, Interface
from spidl.testing import expect

from .conftest import Workshop, call, python

A = """
int y(int); extern int shared;
static int (*hook)(int) = y;
int x(int n) { return y(n) + hook(n) + shared; }
void set_hook(int (*to)(int)) { hook = to; }
"""
B = "int x(int); int shared = 1000; int y(int n) { return 2 * n; }"


def text_permissions(name: str) -> set[str]:
    """Permissions of a domain's pages (the parser's own view of the file is a shared mapping)."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = {line.split()[1] for line in lines if re.search(rf"/{name}\.so", line)}
    return {permission for permission in found if permission.endswith("p")}


def test_resolution_binds_and_exports_do_not_grow(workshop: Workshop) -> None:
    """The paper's example: A exports x and imports y, B exports y."""
    a, b = workshop.domain("a", A), workshop.domain("b", B)
    assert a.exports == {"x", "set_hook"}
    assert set(a.unresolved) == {"y", "shared"}
    assert set(domains.resolve(b, a)) == {"y", "shared"}
    assert a.exports == {"x", "set_hook"}
    assert a.unresolved == ()
    assert domains.resolve(b, a) == ()
    domains.initialize(a)
    assert call(a, "int x(int n);", 3) == 6 + 6 + 1000


def test_text_is_not_executable_before_a_domain_is_initialised(workshop: Workshop) -> None:
    domain = workshop.domain("sleeping", "int f(void) { return 1; }")
    assert text_permissions("sleeping") <= {"r--p", "rw-p", "---p"}
    assert "r--p" in text_permissions("sleeping")
    with expect("domain/not-running"):
        call(domain, "int f(void);")
    domains.initialize(domain)
    assert "r-xp" in text_permissions("sleeping")
    assert call(domain, "int f(void);") == 1


def test_initialize_names_what_is_missing(workshop: Workshop) -> None:
    a, b = workshop.domain("a", A), workshop.domain("b", "int g(void); int y(int n) { return g(); }"
                                                         " int shared;")  # fmt: skip
    with expect("domain/unresolved") as first:
        domains.initialize(a)
    assert first.caught.notes == ("a needs shared, y",)
    domains.resolve(b, a)
    with expect("domain/unresolved") as second:  # what it is bound to must be resolved as well
        domains.initialize(a)
    assert second.caught.notes == ("b needs g",)
    assert not a.is_running


def test_cross_linking(workshop: Workshop) -> None:
    """Two resolves; both are initialised by initialising one, startup code included."""
    odd = workshop.domain("odd", "int even(int n); int ready; extern int other;"
                          "__attribute__((constructor)) static void go(void) { ready = even(2); }"
                          "int odd(int n) { return n && even(n - 1); }")  # fmt: skip
    even = workshop.domain("even", "int odd(int n); int even(int n) { return !n || odd(n - 1); }")
    assert odd.unresolved == ("even",)
    domains.resolve(odd, even)
    domains.resolve(even, odd)
    domains.initialize(odd)
    assert even.is_running
    assert call(even, "int even(int n);", 10) == 1
    ready = Interface("extern int ready;")
    assert domains.client(odd, ready).ready[0] == 1


def test_combine_is_the_union(workshop: Workshop) -> None:
    a, b = workshop.domain("a", A), workshop.domain("b", B)
    whole = domains.combine(a, b)
    assert whole.exports == {"x", "set_hook", "y", "shared"}
    assert set(whole.unresolved) == {"y", "shared"}
    domains.resolve(whole, whole)
    domains.initialize(whole)
    user = workshop.domain("user", "int x(int); int y(int); int f(void) { return x(1) + y(1); }")
    assert set(domains.resolve(whole, user)) == {"x", "y"}
    domains.initialize(user)
    assert call(user, "int f(void);") == 1004 + 2


def test_combine_refuses_two_of_a_name(workshop: Workshop) -> None:
    one, two = workshop.domain("one", "int f = 1;"), workshop.domain("two", "int f = 2;")
    with expect("domain/conflict"):
        domains.combine(one, two)
    narrowed = domains.combine(one, Domain.from_interface(Interface("extern int f;"), one))
    assert narrowed.exports == {"f"}


def test_unresolve_and_a_newer_version(workshop: Workshop) -> None:
    a = workshop.domain("a", "int y(int); int x(int n) { return y(n); }")
    old = workshop.domain("old", "int y(int n) { return n + 1; }")
    new = workshop.domain("new", "int y(int n) { return n + 2; }")
    domains.resolve(old, a)
    domains.initialize(a)
    domains.initialize(new)
    x = domains.client(a, Interface("int x(int n);")).x
    assert x(1) == 2
    assert domains.unresolve(new, a) == ()
    assert domains.unresolve(old, a) == ("y",)
    assert a.unresolved == ("y",)
    with expect("domain/not-running"):
        x(1)
    assert domains.resolve(new, a) == ("y",)
    assert x(1) == 3


def test_unresolve_leaves_what_the_program_has_changed(workshop: Workshop) -> None:
    """A pointer in .data that was initialised with an import belongs to the program."""
    text = (
        "int y(int); int own(int n) { return 7; } int (*hook)(int) = y;"
        "void take(void) { hook = own; } int x(int n) { return 1000 * hook(n) + y(n); }"
    )
    kept, changed = workshop.domain("kept", text), workshop.domain("changed", text)
    old = workshop.domain("old", "int y(int n) { return n + 1; }")
    new = workshop.domain("new", "int y(int n) { return n + 2; }")
    domains.initialize(new)
    for each in (kept, changed):
        domains.resolve(old, each)
        domains.initialize(each)
    call(changed, "void take(void);")
    for each in (kept, changed):
        domains.unresolve(old, each)
        domains.resolve(new, each)
    assert call(kept, "int x(int n);", 1) == 3003
    assert call(changed, "int x(int n);", 1) == 7003


def test_weak_symbols_stay_zero_until_somebody_resolves_them(workshop: Workshop) -> None:
    text = "int extra(void) __attribute__((weak)); int f(void) { return extra ? extra() : -1; }"
    domain = workshop.domain("weak", text)
    assert domain.unresolved == ()
    domains.initialize(domain)
    assert call(domain, "int f(void);") == -1
    extra = workshop.domain("extra", "int extra(void) { return 4; }")
    with expect("domain/not-running"):  # a running domain is never bound to what cannot run
        domains.resolve(extra, domain)
    domains.initialize(extra)
    assert domains.resolve(extra, domain) == ("extra",)
    assert call(domain, "int f(void);") == 4


def test_interfaces_narrow(workshop: Workshop) -> None:
    whole = workshop.domain("whole", "int f(void) { return 1; } int secret(void) { return 2; }")
    view = Domain.from_interface(Interface("int f(void);", "F"), whole)
    assert view.exports == {"f"}
    user = workshop.domain("user", "int f(void), secret(void); int g(void) { return f(); }"
                           "int h(void) { return secret(); }")  # fmt: skip
    assert domains.resolve(view, user) == ("f",)
    assert user.unresolved == ("secret",)
    with expect("domain/not-exported"):
        Domain.from_interface(Interface("int secret(void);", "S"), view)
    assert domains.unresolve(view, user) == ("f",)


def test_a_view_gives_no_right_to_change_what_it_shows(workshop: Workshop) -> None:
    inner = workshop.domain("inner", "int dep(void); int f(void) { return dep(); }")
    view = Domain.from_interface(Interface("int f(void);"), inner)
    evil = workshop.domain("evil", "int dep(void) { return 666; }")
    assert domains.resolve(evil, view) == ()
    assert inner.unresolved == ("dep",)
    domains.close(view)
    assert domains.resolve(evil, inner) == ("dep",)  # it was not closed


def test_functions_in_python(workshop: Workshop) -> None:
    seen: list[int] = []

    def note(value: int) -> int:
        seen.append(value)
        return value * 10

    user = workshop.domain("user", "int note(int); int f(int n) { return note(n) + 1; }")
    domains.resolve(Domain.from_interface(Interface("int note(int value);"), {"note": note}), user)
    gc.collect()  # the slots alone keep the callback alive
    domains.initialize(user)
    assert call(user, "int f(int n);", 4) == 41
    assert seen == [4]


def test_functions_in_python_must_fit_the_header() -> None:
    two = Interface("int f(int a, int b); int g(void);")
    with expect("domain/not-implemented"):
        Domain.from_interface(two, {"f": lambda a, b: 0})
    with expect("domain/not-implemented"):
        Domain.from_interface(two, {"f": lambda a, b: 0, "g": lambda: 0, "h": lambda: 0})
    with expect("domain/wrong-type"):
        Domain.from_interface(two, {"f": lambda a: 0, "g": lambda: 0})
    with expect("domain/wrong-type"):
        Domain.from_interface(Interface("int p(const char *s, ...);"), {"p": lambda s: 0})
    with expect("domain/header"):
        Interface("int f(")


def test_closing(workshop: Workshop) -> None:
    text = "extern int ended; __attribute__((destructor)) static void end(void) { ended = 1; }"
    state = workshop.domain("state", "int ended;")
    domain = workshop.domain("ending", text + "int f(void) { return 3; }")
    domains.resolve(state, domain)
    domains.initialize(domain)
    ended = domains.client(state, Interface("extern int ended;")).ended
    with expect("domain/in-use"):
        domains.close(state)
    f = domains.client(domain, Interface("int f(void);")).f
    assert (f(), ended[0]) == (3, 0)
    domains.close(domain)
    assert ended[0] == 1
    assert text_permissions("ending") == set()
    with expect("domain/not-running"):
        f()
    with expect("domain/closed"):
        domains.resolve(state, domain)
    domains.close(domain)
    domains.close(state)


def test_what_is_forgotten_is_unmapped_unless_it_runs(workshop: Workshop) -> None:
    """By the next that comes: not while the garbage collector runs, which is at any time."""
    domain = workshop.domain("forgotten", "int f(void) { return 3; }")
    assert text_permissions("forgotten")
    del domain
    gc.collect()
    assert text_permissions("forgotten")
    workshop.domain("next", "int f;")
    assert not text_permissions("forgotten")
    domain = workshop.domain("forgotten", "int f(void) { return 3; }")
    domains.initialize(domain)
    del domain
    gc.collect()
    workshop.domain("next", "int f;")
    assert text_permissions("forgotten")


def test_destructors_run_before_python_ends(workshop: Workshop) -> None:
    text = "int say(int); __attribute__((destructor)) static void end(void) { say(5); }"
    made = workshop.object("late", text)
    script = """if True:
        import sys
        from spidl import domains
        from spidl.domains import Domain, Interface
        d = Domain.create(sys.argv[1])
        say = {"say": lambda n: print("ended", n, flush=True) or 0}
        domains.resolve(Domain.from_interface(Interface("int say(int n);"), say), d)
        domains.initialize(d)
        print("started", flush=True)
    """
    result = python(script, str(made))
    assert (result.stdout, result.stderr, result.returncode) == ("started\nended 5\n", "", 0)
