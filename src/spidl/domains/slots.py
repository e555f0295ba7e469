"""The words of slots: bound, and unresolved in a domain that runs.

What stands for an unresolved function is a gate, in which calls wait.  What stands for unresolved
data makes a thread that uses it end with SIGSEGV: a guard area, and for a thread-local variable a
module, an offset or a descriptor that leads to no address (psABI 3.4.6: TLS models).
"""

from __future__ import annotations

import ctypes
import itertools
import os

from spidl.diagnostics import LinkError, Place
from spidl.domains.gates import Gate, guard
from spidl.domains.host import L_LD
from spidl.domains.symbols import Kind, Slot, Symbol
from spidl.elf import STT, R
from spidl.elf.build import Define, Relocate, Undefined, build_dso
from spidl.live import process

Words = list[tuple[int, int]]
"""(run-time address, value modulo 2**64) of words, in the order in which they are to be stored."""

_serials = itertools.count(1)
_EMPTY = ctypes.create_string_buffer(16)
"""A dynamic section with nothing but DT_NULL."""
_NO_MODULE = 2**59
"""A TLS module whose entry in any thread's vector would lie at no canonical address."""
_NO_OFFSET = 2**62
"""No canonical address lies there from any thread pointer."""


def value_of(symbol: Symbol) -> int:
    """The run-time address that a symbol stands for; the code of its owner must be executable."""
    if symbol.kind is Kind.INDIRECT:
        return process.call_resolver(symbol.address)
    return symbol.address


def bound(slot: Slot, symbol: Symbol, value: int) -> Words:
    """A slot's words for a symbol, whose `value_of` is ``value`` if it is not thread-local.

    Raises `LinkError` ``domain/tls``.
    """
    if slot.type == R.DTPMOD64:
        assert symbol.owner is not None, "only domains have thread-local variables"
        return [(slot.address, process.tls_module(symbol.owner.handle))]
    if slot.type == R.DTPOFF64:
        return [(slot.address, symbol.address + slot.addend)]
    if slot.type == R.TPOFF64:
        return [(slot.address, _ask(symbol, slot)[0])]
    if slot.type == R.TLSDESC:
        function, argument = _ask(symbol, slot)
        return [(slot.address + 8, argument), (slot.address, function)]
    return [(slot.address, value + slot.addend)]


def unbound(slot: Slot, symbol: Symbol, gate: Gate | None) -> Words:
    """A slot's words after its symbol was taken from it.

    Raises `LinkError` ``domain/no-memory``.
    """
    if slot.type == R.DTPMOD64:
        return [(slot.address, _NO_MODULE)]
    if slot.type == R.DTPOFF64:
        return []
    if slot.type == R.TPOFF64:
        return [(slot.address, _NO_OFFSET)]
    if gate is not None and slot.addend == 0:
        return [(slot.address, gate.address)]
    return [(slot.address, guard(symbol.size))]


def cleared(slot: Slot) -> Words:
    """A slot's words before anything is bound."""
    places = [slot.address, slot.address + 8] if slot.type == R.TLSDESC else [slot.address]
    return [(place, 0) for place in places]


def _ask(symbol: Symbol, slot: Slot) -> tuple[int, int]:
    """What glibc stores for a relocation on a thread-local variable of a domain: two words, the
    second 0 where there is only one.

    An object with nothing but such a relocation asks.  It needs the owner, so glibc would load what
    the owner's dynamic section names (DT_AUXILIARY, DT_FILTER): meanwhile it sees an empty one.
    For TPOFF64 glibc makes the block's storage static if it still can (elf/dl-reloc.c,
    _dl_try_allocate_static_tls).  Answers stay true when the object is gone, as long as the owner
    is there (elf/tlsdeschtab.h).
    """
    owner = symbol.owner
    assert owner is not None, "only domains have thread-local variables"
    file = None if symbol.version is None else owner.soname
    content = build_dso(
        None,
        {"answer": Define(bytes(16), STT.OBJECT)},
        needed=[owner.soname],
        undefined=[Undefined(symbol.name, symbol.version, file, type=STT.TLS)],
        relocations=[Relocate("answer", slot.type, symbol.name, addend=slot.addend)],
    )
    descriptor, dynamic = -1, process.read_word(owner.handle + L_LD)
    try:
        descriptor = os.memfd_create("spidl:tls", os.MFD_CLOEXEC)
        os.write(descriptor, content)
        process.write_word(owner.handle + L_LD, ctypes.addressof(_EMPTY))
        handle = process.open_object(_unique_path(descriptor))
    except OSError as error:
        raise LinkError(
            "domain/tls",
            f"the C library does not say where the thread-local variable `{symbol.name}` of "
            f"{owner.name} is: {error}",
            place=Place(owner.path, "PT_TLS"),
            help="compile who imports it with -ftls-model=global-dynamic",
        ) from None
    finally:
        process.write_word(owner.handle + L_LD, dynamic)
        if descriptor >= 0:
            os.close(descriptor)
    try:
        at = process.symbol_in(handle, "answer")
        assert at is not None, "it is defined in this object"
        return process.read_word(at), process.read_word(at + 8)
    finally:
        process.close_object(handle)


def _unique_path(descriptor: int) -> bytes:
    """A path of a descriptor that nothing else was opened by, shells (spidl.live.shell) included:
    glibc knows objects by name first."""
    steps = "".join("./" if bit == "1" else "/" for bit in f"{next(_serials):b}")
    return f"/proc/{os.getpid()}/task/../fd/{steps}{descriptor}".encode()
