"""What an object does with its GOT slots: call what is there, or take it as an address.

Programs compare addresses of functions (libcrypto asks whether its allocator is still its own),
so only what is called may lead to a thunk.  Both uses name the slot relative to %rip; they are
found by the form of the instructions, ModRM and displacement, without decoding what comes before.
"""

from __future__ import annotations

import numpy as np

from spidl.api import I64, U64, Dso, R, Reference

_CALL, _JUMP = 2, 4
"""The ModRM extensions of opcode FF that call and jump."""


class Uses:
    """The GOT slots of one object that are called through, and those whose content is taken."""

    def __init__(self, dso: Dso) -> None:
        slots = dso.file.rela["r_offset"][dso.file.rela["r_type"] == R.GLOB_DAT]
        self._order = np.argsort(dso.file.rela["r_sym"], kind="stable")
        self._symbols = dso.file.rela["r_sym"][self._order]
        self._through_plt = set(dso.file.jmprel["r_sym"].tolist())
        self._called: set[int] = set()
        self._taken: set[int] = set()
        if len(slots):
            slots = np.unique(slots.astype(np.uint64))
            found = [_uses(dso.file.data[load.offset :][: load.filesz], load.vaddr, slots)
                     for load in dso.file.loads if load.flags & 1]  # fmt: skip
            self._called.update(*(called.tolist() for called, _ in found))
            self._taken.update(*(taken.tolist() for _, taken in found))

    def addresses(self, reference: Reference) -> tuple[I64, bool]:
        """Rows of DT_RELA that hold the function as an address, and whether others call it.

        A slot that is used for both (a linker has one for the address and .plt.got) counts as a
        call, unless the function is the object's own: then it is compared with what needs no slot.
        """
        rela, jmprel = reference.dso.file.rela, reference.dso.file.jmprel
        called = bool((jmprel["r_sym"] == reference.symbol).any())
        own = reference.provider is reference.dso
        low, high = np.searchsorted(self._symbols, [reference.symbol, reference.symbol + 1])
        rows = []
        for row in self._order[low:high].tolist():
            slot = int(rela["r_offset"][row])
            is_slot = int(rela["r_type"][row]) in (R.GLOB_DAT, R.JUMP_SLOT)
            if is_slot and slot in self._called and not (own and slot in self._taken):
                called = True
            else:
                rows.append(row)
        return np.array(rows, np.int64), called


def _uses(code: np.typing.NDArray[np.uint8], at: int, slots: U64) -> tuple[U64, U64]:
    """(slots that are called or jumped through, slots that are read) by the code at ``at``."""
    # ModRM with mod 0 and r/m 5 is a displacement from the end of the instruction.
    places = np.flatnonzero(code[1:-4] & 0xC7 == 5) + 1
    displacement = np.zeros(len(places), np.uint32)
    for byte in range(4):
        displacement |= code[places + 1 + byte].astype(np.uint32) << np.uint32(8 * byte)
    targets = (places + (at + 5) + displacement.view(np.int32)).astype(np.uint64)
    near = np.flatnonzero((targets >= slots[0]) & (targets <= slots[-1]))
    near = near[np.isin(targets[near], slots)]
    places, targets = places[near], targets[near]
    extension = code[places] >> 3
    calls = (code[places - 1] == 0xFF) & ((extension == _CALL) | (extension == _JUMP))
    return targets[calls], targets[~calls]
