"""Prints decode/forms.h: what sweep.c knows of instructions, found out by asking iced.

``python -m spidl.analyse.forms > decode/forms.h``

An instruction's form says what follows its opcode and what kind it is.  Forms depend on the map of
opcodes, on prefixes (a *plane*: all that share these) and on ModRM.  What depends on anything else
is left out: sweep.c leaves code with it to iced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, product
from typing import TYPE_CHECKING, Final

from spidl.analyse.code import CALL, JUMP, MEMORY, codes, decoder

if TYPE_CHECKING:
    from iced_x86 import Instruction

CLASSES: Final = (
    "PLAIN", "CALL", "JUMP", "BRANCH", "BOUND_CALL", "BOUND_JUMP", "END", "PADDING", "WIDE",
    "SYSCALL", "INTERRUPT", "OTHER_CALL",
)  # fmt: skip
"""Kinds of instructions: near branches, those through a register or memory, ends of functions,
padding, 64-bit immediates, `syscall`, `int imm8`, what else counts as a call."""
IMMEDIATES: Final = (0, 1, 2, 3, 4, 8)
"""Bytes behind the operands; a form has the index."""
NOTHING: Final = 0xFF
"""The form of what is no instruction, or is left out."""
HAS_MODRM: Final = 0x80
_COLUMNS: Final = 72
"""ModRM as far as it matters: the register for an operand in memory, 6 bits for one that is not."""
_MODRM: Final = (*(reg << 3 for reg in range(8)), *range(0xC0, 0x100))
_CELL: Final = 16
_ESCAPES: Final = ("", "0f", "0f38", "0f3a")
_REPEATS: Final = ("", "f3", "f2")
_PREFIXES: Final = {
    0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3, *range(0x40, 0x50),
    0x0F, 0xC4, 0xC5, 0x62,
}  # fmt: skip
_LEFT_OUT: Final = {0: _PREFIXES, 1: {0x0F, 0x38, 0x3A}}
"""By map: what is no opcode there, but leads to others."""
_XCHG: Final = 0x90
"""No operation, unless REX.B makes it another instruction; sweep.c leaves that to iced."""
_POP: Final = 0x8F
"""With another register than 0 it leads to AMD's XOP."""

Row = tuple[int, ...]
_NO_ROW: Final[Row] = (NOTHING,) * _COLUMNS


class _Prober:
    """Asks iced about instructions, each in a cell of its own."""

    def __init__(self) -> None:
        self._classes = self._classify()

    def _classify(self) -> dict[int, int]:
        table, found = codes(), {}
        for code in range(len(table.kinds)):
            kind = int(table.kinds[code])
            if table.impossible[code]:
                continue
            if kind >= 0:
                name = {CALL: "CALL", JUMP: "JUMP"}.get(kind, "BRANCH")
                assert table.ends[code] == (kind == JUMP)
                assert table.calls[code] == (kind == CALL)
            elif table.bound[code]:
                name = "BOUND_JUMP" if table.jumps[code] else "BOUND_CALL"
            elif table.ends[code]:
                name = "END"
            elif code == table.syscall:
                name = "SYSCALL"
            elif table.calls[code]:
                name = "OTHER_CALL"
            elif table.padding[code]:
                name = "PADDING"
            elif table.wide[code]:
                name = "WIDE"
            else:
                name = "INTERRUPT" if code == table.interrupt else "PLAIN"
            found[code] = CLASSES.index(name)
        return found

    def ask(self, heads: list[bytes]) -> list[tuple[int, int]]:
        """(class, length) of the instructions that begin so, zeros behind; class -1 for none."""
        data = b"".join(head.ljust(_CELL, b"\0") for head in heads)
        made = decoder()(64, data, ip=0)
        one: Instruction = made.decode()
        found = []
        for at in range(len(heads)):
            made.position = at * _CELL
            made.decode_out(one)
            found.append((self._classes.get(one.code, -1), one.len))
        return found

    def row(self, variants: list[bytes]) -> Row:
        """The forms of an opcode for every ModRM; ``variants`` are what must not matter."""
        rows = {self._row(variants[0])}
        if rows != {_NO_ROW}:  # else the others do not matter
            rows |= {self._row(head) for head in variants[1:]}
        if len(rows) == 1:
            return rows.pop()
        return tuple(
            forms[0] if len(set(forms)) == 1 else NOTHING for forms in zip(*rows, strict=True)
        )

    def _row(self, head: bytes) -> Row:
        size = len(head)
        asked = [head + bytes([modrm]) for modrm in _MODRM]
        found = self.ask(asked)
        if all(kind < 0 for kind, _ in found):
            return _NO_ROW
        far = self.ask([head + bytes([0x80 | reg << 3]) for reg in range(8)])
        # Without ModRM the byte is an immediate's, and says nothing.
        has_modrm = len(set(found)) > 1 or far[0] != found[0]
        forms = []
        for at, (kind, length) in enumerate(found):
            rest = length - size - has_modrm
            # A displacement shows whether the byte is ModRM for sure.
            odd = has_modrm and at < 8 and far[at] != (kind, length + 4)
            if kind < 0 or rest not in IMMEDIATES or odd:
                forms.append(NOTHING)
            else:
                forms.append(kind | IMMEDIATES.index(rest) << 4 | HAS_MODRM * has_modrm)
        return tuple(forms)


def planes() -> Iterator[tuple[int, list[list[bytes]]]]:
    """Map, and for each opcode the beginnings that must have one form; sweep.c counts alike."""
    for at, escape in enumerate(_ESCAPES):
        for size, repeat, wide, lock in product(("", "66"), _REPEATS, (0, 8), ("", "f0")):
            # Registers 8 to 15 must make no difference, nor where REX is needed for nothing.
            rexes = (0x48, 0x4F) if wide else (0, 0x40, 0x41, 0x44, 0x47)
            head = bytes.fromhex(size + repeat + lock)
            middles = [bytes([rex] if rex else []) + bytes.fromhex(escape) for rex in rexes]
            yield at, [[head + middle + bytes([opcode]) for middle in middles]
                       for opcode in range(256)]  # fmt: skip
    for at, wide, vector, used, prefix in product((1, 2, 3), (0, 1), (0, 1), (0, 1), range(4)):
        others = (0, 5, 14) if used else (15,)
        middles = [
            bytes([0xC4, ext | at, wide << 7 | other << 3 | vector << 2 | prefix])
            for ext in (0xE0, 0x00) for other in others
        ]  # fmt: skip
        yield 3 + at, [[middle + bytes([opcode]) for middle in middles]
                       for opcode in range(256)]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """What sweep.c gets."""

    rows: list[Row]
    """All different ones."""
    sheets: list[tuple[tuple[int, int, int], ...]]
    """All different planes, as runs of opcodes: (first, last, row)."""
    planes: list[int]
    """The sheet of each plane."""


def table() -> Table:
    """Asks about every form."""
    prober = _Prober()
    rows: dict[Row, int] = {}
    sheets: dict[tuple[tuple[int, int, int], ...], int] = {}
    numbers = []
    for at, opcodes in planes():
        found = []
        for opcode, heads in enumerate(opcodes):
            if at == 0 and opcode == _XCHG:
                heads = heads[:1]
            row = _NO_ROW if opcode in _LEFT_OUT.get(at, ()) else prober.row(heads)
            if at == 0 and opcode == _POP:
                row = (row[0], *_NO_ROW[1:8], *row[8:16], *_NO_ROW[16:])
            found.append(row)
        runs = []
        for row, group in groupby(enumerate(found), key=lambda pair: pair[1]):
            members = [opcode for opcode, _ in group]
            if row != _NO_ROW:
                runs.append((members[0], members[-1], rows.setdefault(row, len(rows))))
        numbers.append(sheets.setdefault(tuple(runs), len(sheets)))
    return Table(list(rows), list(sheets), numbers)


def header() -> str:
    """The text of decode/forms.h."""
    made = table()
    lines = [
        "/* Generated by spidl.analyse.forms from what iced-x86 answers. */",
        "#ifndef SPIDL_FORMS_H",
        "#define SPIDL_FORMS_H",
        "",
        "#include <stdint.h>",
        "",
        "enum {",
        *(f"    CLASS_{name} = {number}," for number, name in enumerate(CLASSES)),
        "};",
        "",
        f"enum {{ SHEETS = {len(made.sheets)}, ROWS = {len(made.rows)}, COLUMNS = {_COLUMNS} }};",
        f"enum {{ NOTHING = {NOTHING:#x}, HAS_MODRM = {HAS_MODRM:#x}, MEMORY = {MEMORY} }};",
        "",
        f"static const uint8_t immediates[] = {{{', '.join(map(str, IMMEDIATES))}}};",
        "",
        "/* Forms by ModRM, as runs: a count and a form. Row after row. */",
        "static const uint8_t forms[] = {",
        *_wrapped([n for row in made.rows for n in _packed(row)]),
        "};",
        "",
        "/* How many runs each sheet has; first and last opcode and row of each run. */",
        "static const uint8_t sizes[] = {",
        *_wrapped([len(sheet) for sheet in made.sheets]),
        "};",
        "static const uint8_t runs[] = {",
        *_wrapped([n for sheet in made.sheets for run in sheet for n in run]),
        "};",
        "",
        "/* The sheet of each plane. */",
        "static const uint8_t planes[] = {",
        *_wrapped(made.planes),
        "};",
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _packed(row: Row) -> Iterator[int]:
    for form, group in groupby(row):
        yield sum(1 for _ in group)
        yield form


def _wrapped(numbers: list[int]) -> Iterator[str]:
    line = "   "
    for number in numbers:
        if len(line) + len(str(number)) > 97:
            yield line
            line = "   "
        line += f" {number},"
    yield line


if __name__ == "__main__":
    print(header(), end="")
