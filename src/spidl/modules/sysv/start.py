"""Start: enter a program that needs no C library, with nothing but the kernel's help.

Constructors run in dependency order (gABI, Initialization and Termination Functions); IFUNC words
are filled in first, since constructors may call through them.
"""

from __future__ import annotations

import numpy as np

from spidl.api import Action, Call, CallStore, Dso, Jump, Link, Place, Refusal, dependency_order
from spidl.modules.sysv.relocate import starts_itself


def start(dso: Dso, link: Link) -> list[Action]:
    """The actions of a program without a run-time linker.

    Raises `Refusal` ``start/needs-runtime`` for a program with a libc: that libc's linker must set
    up threads and dlopen, which is the business of the gnu and musl modules.
    """
    if starts_itself(dso):
        return [Jump(dso.bias + dso.file.entry)]
    for other in link.main.members:
        if other is not dso and {"libc.so.6", "libc.so"} & other.names:
            raise Refusal(
                "start/needs-runtime",
                f"{dso.name} uses {other.name}, whose run-time linker no module in the list adopts",
                place=Place(dso.path),
                help="add `gnu` or `musl` to the modules",
            )
    if any(other.tls for other in link.objects):
        raise Refusal(
            "start/needs-tls",
            f"{dso.name} has thread-local storage but no C library to set it up",
            place=Place(dso.path, "PT_TLS"),
            help="link the program with a C library",
        )
    actions: list[Action] = []
    for deferred in link.space.deferred:
        actions += [
            CallStore(int(function), int(address))
            for address, function in zip(deferred.addresses, deferred.functions, strict=True)
        ]
    actions += [Call(function) for function in _array(dso, dso.file.preinit_array, link)]
    for other in dependency_order(link.objects):
        if other is dso:
            continue  # it runs its own (crt1.o)
        actions += [Call(function) for function in constructors(other, link)]
    return [*actions, Jump(dso.bias + dso.file.entry)]


def constructors(dso: Dso, link: Link) -> list[int]:
    """Addresses of DT_INIT and the entries of DT_INIT_ARRAY, in order."""
    first = [] if dso.file.init is None else [dso.bias + dso.file.init]
    return first + _array(dso, dso.file.init_array, link)


def _array(dso: Dso, table: tuple[int, int] | None, link: Link) -> list[int]:
    """The functions in a table of them, (vaddr, bytes)."""
    if table is None:
        return []
    vaddr, size = table
    places = np.uint64(dso.bias + vaddr) + np.arange(0, size & -8, 8, dtype=np.uint64)
    words = link.space.read_words(places, link.by)
    return [int(word) for word in words if word not in (0, 2**64 - 1)]
