"""What extensions and their Python try in order to get what they were not given."""

from __future__ import annotations

import copy
import pickle
import signal
from pathlib import Path

import pytest

from spidl import domains
from spidl.domains import Domain, Identity, Interface, NameServer, Principal, only
from spidl.testing import expect

from .conftest import Workshop, call, python


@pytest.mark.parametrize(
    "name", ["system", "dlsym", "dlopen", "malloc", "mprotect", "execve", "_Exit", "syscall",
             "__libc_start_main", "environ"],
)  # fmt: skip
def test_what_was_not_granted_is_not_there(workshop: Workshop, name: str) -> None:
    """An extension that imports it is placed and never runs."""
    text = f"extern void *{name}[]; void *f(void) {{ return {name}; }}"
    extension = workshop.domain("extension", text)
    assert extension.unresolved == (name,)
    with expect("domain/unresolved"):
        domains.initialize(extension)
    with expect("domain/not-running"):
        call(extension, "void *f(void);")


def test_what_a_library_needs_is_not_loaded_for_it(workshop: Workshop) -> None:
    """DT_NEEDED, by which every other linker would let it have the whole of libc."""
    made = workshop.library("needy", '#include <stdlib.h>\nint f(void) { return system("id"); }')
    extension = Domain.create(made)
    assert "system" in extension.unresolved
    domains.resolve(domains.RUNTIME, extension)
    with expect("domain/unresolved"):
        domains.initialize(extension)


@pytest.mark.parametrize("tag", ["auxiliary", "filter"])
def test_what_a_library_filters_is_not_loaded_for_it(
    workshop: Workshop, tmp_path: Path, tag: str
) -> None:
    """DT_AUXILIARY and DT_FILTER name libraries that ld.so loads, constructors and all, with
    whoever needs the library that has them."""
    says = "extern int puts(const char *); __attribute__((constructor)) static void go(void)"
    evil = workshop.library("evil", says + '{ puts("I have a libc"); }')
    made = workshop.library(
        "filter", "__thread int v = 4;", f"-Wl,--{tag},{evil}", "-Wl,--no-as-needed"
    )
    users = [
        workshop.object(f"user{number}", "extern __thread int v; int f(void) { return v; }", flag)
        for number, flag in enumerate(("-mtls-dialect=gnu2", "-ftls-model=initial-exec"))
    ]
    script = """if True:
        import sys
        from spidl import domains
        from spidl.domains import Domain, Interface
        source = Domain.create(sys.argv[1])
        domains.resolve(domains.RUNTIME, source)
        for path in sys.argv[2:]:
            user = Domain.create(path)
            domains.resolve(domains.RUNTIME, user)
            domains.resolve(source, user)
            domains.initialize(user)
            print(domains.client(user, Interface("int f(void);")).f(), flush=True)
    """
    result = python(script, str(made), *map(str, users))
    assert (result.stdout, result.stderr) == ("4\n4\n", "")


def test_looking_up_names_is_an_interface_like_any_other(workshop: Workshop) -> None:
    """Who grants dlsym may grant one that knows some names only."""
    header = Interface("void *dlsym(void *in, const char *name);")
    asked: list[bytes] = []

    def dlsym(_: object, name: object) -> object:
        asked.append(header.ffi.string(name))
        return {b"five": five}.get(asked[-1], header.ffi.NULL)

    five = header.ffi.callback("int(void)", lambda: 5)
    text = """
    void *dlsym(void *, const char *);
    int f(void) {
        int (*five)(void) = dlsym(0, "five");
        return dlsym(0, "system") || dlsym((void *)-1, "dlopen") ? -1 : five();
    }
    """
    extension = workshop.domain("asking", text)
    domains.resolve(Domain.from_interface(header, {"dlsym": dlsym}), extension)
    domains.initialize(extension)
    assert call(extension, "int f(void);") == 5
    assert asked == [b"five", b"system", b"dlopen"]


def test_guessing_weakly_gives_zero(workshop: Workshop) -> None:
    """Weak references are no way to try names: they are 0, whatever the process has."""
    names = ("dlsym", "dlopen", "system", "_dl_open", "__libc_dlsym", "PyRun_SimpleString")
    text = "".join(f"void {name}(void) __attribute__((weak));" for name in names)
    tests = " ".join(f"n += {name} != 0;" for name in names)
    extension = workshop.domain("guess", text + f"int f(void) {{ int n = 0; {tests} return n; }}")
    domains.initialize(extension)
    assert call(extension, "int f(void);") == 0


def test_an_indirect_function_cannot_run_early(workshop: Workshop) -> None:
    """An IFUNC resolver is code that other linkers run while they bind."""
    text = """
    int undefined(void);
    int ran;
    static int one(void) { return 1; }
    static int (*choose(void))(void) { ran = 1; return one; }
    int chosen(void) __attribute__((ifunc("choose")));
    int f(void) { return chosen(); }
    int g(void) { return undefined(); }
    int has_run(void) { return ran; }
    """
    extension = workshop.domain("early", text)
    user = workshop.domain("user", "int chosen(void); int h(void) { return chosen() + 1; }")
    assert domains.resolve(extension, user) == ("chosen",)
    with expect("domain/unresolved"):
        domains.initialize(user)
    domains.resolve(workshop.domain("def", "int undefined(void) { return 2; }"), extension)
    domains.initialize(user)
    assert call(user, "int h(void);") == 2
    assert call(extension, "int has_run(void);") == 1
    assert call(extension, "int f(void);") == 1


def test_a_domain_cannot_be_forged(workshop: Workshop) -> None:
    real = workshop.domain("real", "int f(void) { return 1; }")
    with expect("domain/forged"):
        Domain()
    with expect("domain/forged"):
        Identity("root")
    fake = object.__new__(Domain)
    for attack in (
        lambda: domains.resolve(fake, real),
        lambda: domains.resolve(real, fake),
        lambda: domains.initialize(fake),
        lambda: domains.combine(real, fake),
        lambda: domains.close(fake),
        lambda: fake.exports,
        lambda: NameServer().register("fake", fake),
        lambda: copy.copy(real),
        lambda: copy.deepcopy(real),
        lambda: pickle.dumps(real),
    ):
        with expect("domain/forged"):
            attack()


def test_something_that_pretends_to_be_a_domain_is_refused(workshop: Workshop) -> None:
    """Equality and hash of the attacker's own are not asked."""
    real = workshop.domain("real", "int f(void) { return 1; }")

    class Twin:
        __class__ = Domain  # type: ignore[assignment]

        def __hash__(self) -> int:
            return hash(real)

        def __eq__(self, other: object) -> bool:
            return True

    with expect("domain/forged"):
        domains.resolve(Twin(), real)  # type: ignore[arg-type]
    with expect("domain/forged"):

        class Sub(Domain):
            pass

    with expect("domain/forged"):

        class Both(Domain, Identity):
            pass


def test_nothing_public_is_an_address_or_handle(workshop: Workshop) -> None:
    domain = workshop.domain("closed", "int f(void) { return 1; }")
    assert not hasattr(domain, "__dict__")
    with pytest.raises(AttributeError):
        domain.anything = 1  # type: ignore[attr-defined]
    public = {name for name in dir(domain) if not name.startswith("_")}
    assert public == {
        "create", "exports", "from_interface", "from_process", "is_running", "name", "unresolved",
    }  # fmt: skip
    assert domain.exports == {"f"}


def test_nobody_can_ask_as_somebody_else() -> None:
    names, trusted = NameServer(), Identity.create("trusted")
    names.register("secret", domains.RUNTIME, only(trusted.principal))
    namesake = Identity.create("trusted")
    with namesake.active(), expect("domain/denied"):
        names.query("secret")
    assert not hasattr(trusted.principal, "active")  # the public face gives no right to act
    with expect("domain/forged"), object.__new__(Identity).active():
        pass
    with expect("domain/forged"):
        copy.copy(trusted)
    made = Principal("trusted")
    assert not only(trusted.principal)(made)
    with trusted.active():
        assert names.query("secret") is domains.RUNTIME


def test_code_that_jumps_to_a_domain_before_it_is_resolved_dies(workshop: Workshop) -> None:
    """Even with its address, stolen from the table behind the reference, there is nothing to run:
    the text is not executable."""
    made = workshop.object("stolen", "int g(void); int f(void) { return 1; } int h(void) "
                           "{ return g(); }")  # fmt: skip
    script = """if True:
        import ctypes, faulthandler, sys
        from spidl.domains import Domain, domain
        d = Domain.create(sys.argv[1])
        address = domain._domains.of(d).exports["f"].default.address
        print("there", flush=True)
        ctypes.CFUNCTYPE(ctypes.c_int)(address)()
        print("ran")
    """
    result = python(script, str(made))
    assert (result.stdout, result.returncode) == ("there\n", -signal.SIGSEGV)


def test_views_do_not_widen(workshop: Workshop) -> None:
    whole = workshop.domain("whole", "int f(void) { return 1; } int g(void) { return 2; }")
    view = Domain.from_interface(Interface("int f(void);"), whole)
    for attempt in ("int g(void);", "int f(void); int g(void);"):
        with expect("domain/not-exported"):
            Domain.from_interface(Interface(attempt), view)
        with expect("domain/not-exported"):
            domains.client(view, Interface(attempt))
    assert domains.combine(view, domains.RUNTIME).exports == {"f"} | domains.RUNTIME.exports


@pytest.mark.parametrize("flags", [("-Wl,-z,execstack",), ("-nostdlib", "-Wl,-N")])
def test_code_that_is_writable_is_not_placed(workshop: Workshop, flags: tuple[str, ...]) -> None:
    made = workshop.library("writable", "int d = 1; int f(void) { return d; }", *flags)
    with expect("live/unsafe"):
        Domain.create(made)
