"""The relocation types of the x86-64 psABI (table 4.9) that reach run time, as recipes.

Formulas are the psABI's; glibc's are in elf_machine_rela (sysdeps/x86_64/dl-machine.h).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from spidl.api import U64, Batch, LinkError, LookupClass, Place, R, Recipe, Words, relocation_name


def _plain(batch: Batch) -> list[Words]:
    return [Words(batch.P, batch.S + batch.A)]


def _slot(batch: Batch) -> list[Words]:
    """No addend: a linker may keep the PLT entry's offset there (binutils, -z mark-plt)."""
    return [Words(batch.P, batch.S)]


def _relative(batch: Batch) -> list[Words]:
    return [Words(batch.P, batch.B + batch.A)]


def _pc_relative(batch: Batch) -> list[Words]:
    values = batch.S + batch.A - batch.P
    signed = values.view(np.int64)
    return [Words(batch.P, _checked(batch, values, (signed < -(2**31)) | (signed >= 2**31)))]


def _pc_relative_wide(batch: Batch) -> list[Words]:
    return [Words(batch.P, batch.S + batch.A - batch.P)]


def _narrow(batch: Batch) -> list[Words]:
    values = batch.S + batch.A
    return [Words(batch.P, _checked(batch, values, values >= np.uint64(2**32)))]


def _size(batch: Batch) -> list[Words]:
    return [Words(batch.P, batch.Z + batch.A)]


def _tls_module(batch: Batch) -> list[Words]:
    modules = batch.of_provider(lambda dso: dso.tls.module if dso.tls else 0)
    return [Words(batch.P, modules)]


def _tls_offset(batch: Batch) -> list[Words]:
    return [Words(batch.P, batch.T + batch.A)]


def _thread_offset(batch: Batch) -> list[Words]:
    offsets = batch.of_provider(lambda dso: dso.tls.offset if dso.tls else 0)
    return [Words(batch.P, batch.T + batch.A - offsets)]


def _tls_descriptor(batch: Batch) -> list[Words]:
    """Two words (psABI TLSDESC supplement): a function of the run-time linker and its argument.

    An undefined weak symbol has the addend as its argument.
    """
    offsets = batch.of_provider(lambda dso: dso.tls.offset if dso.tls else 0)
    everything = np.ones(len(batch.P), np.bool_)
    function = Words(batch.P, np.zeros(len(batch.P), np.uint64), everything, None, "TLS descriptor")
    return [function, Words(batch.P + np.uint64(8), batch.T + batch.A - offsets)]


def _checked(batch: Batch, values: U64, bad: npt.NDArray[np.bool_]) -> U64:
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise LinkError(
            "relocate/overflow",
            f"{batch.dso.name}: a 32-bit relocation does not reach its target",
            place=Place(batch.dso.path, batch.table, int(batch.index[i])),
            help="build the object as position-independent code (-fPIC)",
        )
    return values


_SPECS: tuple[tuple[R, int, Callable[[Batch], list[Words]], LookupClass, bool, bool], ...] = (
    # type, bytes, formula, look-up, uses a symbol, calls an IFUNC's resolver
    (R.R64, 8, _plain, LookupClass.NORMAL, True, True),
    (R.GLOB_DAT, 8, _slot, LookupClass.NORMAL, True, True),
    (R.JUMP_SLOT, 8, _slot, LookupClass.PLT, True, True),
    (R.RELATIVE, 8, _relative, LookupClass.NORMAL, False, False),
    (R.RELATIVE64, 8, _relative, LookupClass.NORMAL, False, False),
    (R.PC32, 4, _pc_relative, LookupClass.NORMAL, True, True),
    (R.PC64, 8, _pc_relative_wide, LookupClass.NORMAL, True, True),
    (R.R32, 4, _narrow, LookupClass.NORMAL, True, True),
    (R.SIZE32, 4, _size, LookupClass.NORMAL, True, False),
    (R.SIZE64, 8, _size, LookupClass.NORMAL, True, False),
    (R.DTPMOD64, 8, _tls_module, LookupClass.PLT, True, False),
    (R.DTPOFF64, 8, _tls_offset, LookupClass.PLT, True, False),
    (R.TPOFF64, 8, _thread_offset, LookupClass.PLT, True, False),
    (R.TLSDESC, 8, _tls_descriptor, LookupClass.PLT, True, False),
)

PSABI: dict[int, Recipe] = {
    int(number): Recipe(int(number), relocation_name(number), width, apply, lookup, symbol, ifunc)
    for number, width, apply, lookup, symbol, ifunc in _SPECS
}
"""The recipes, by relocation number."""
