"""A seccomp filter run in Python, under the rules by which Linux takes one.

Written from the kernel's description alone (Documentation/networking/filter.rst, seccomp(2)) and
independent of what makes filters, so that the two can be compared.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

ARCH_X86_64 = 0xC000003E
_WORD = 0xFFFFFFFF
_DATA_SIZE = 64
"""sizeof(struct seccomp_data), bytes."""
_SCRATCH = 16
"""BPF_MEMWORDS."""

_LD_ABS, _LD_LEN, _LD_IMM, _LD_MEM = 0x20, 0x80, 0x00, 0x60
_LDX_IMM, _LDX_MEM, _LDX_LEN, _ST, _STX = 0x01, 0x61, 0x81, 0x02, 0x03
_RET_K, _RET_A, _TAX, _TXA, _JA = 0x06, 0x16, 0x07, 0x87, 0x05
_JUMPS = {0x15: "eq", 0x1D: "eq", 0x25: "gt", 0x2D: "gt", 0x35: "ge", 0x3D: "ge",
          0x45: "set", 0x4D: "set"}  # fmt: skip
_ARITHMETIC = {0x04: "add", 0x0C: "add", 0x14: "sub", 0x1C: "sub", 0x24: "mul", 0x2C: "mul",
               0x34: "div", 0x3C: "div", 0x44: "or", 0x4C: "or", 0x54: "and", 0x5C: "and",
               0x64: "lsh", 0x6C: "lsh", 0x74: "rsh", 0x7C: "rsh", 0x84: "neg",
               0xA4: "xor", 0xAC: "xor"}  # fmt: skip
_KNOWN = {_LD_ABS, _LD_LEN, _LD_IMM, _LD_MEM, _LDX_IMM, _LDX_MEM, _LDX_LEN, _ST, _STX,
          _RET_K, _RET_A, _TAX, _TXA, _JA, *_JUMPS, *_ARITHMETIC}  # fmt: skip


class BadFilter(ValueError):
    """The kernel would refuse the filter with EINVAL."""


@dataclass(frozen=True, slots=True)
class SystemCall:
    """struct seccomp_data: what a filter sees of one call."""

    number: int
    arguments: tuple[int, ...] = ()
    ip: int = 0x7F0000000000
    """The address behind the instruction that makes the call."""
    arch: int = ARCH_X86_64

    def pack(self) -> bytes:
        padded = (*self.arguments, 0, 0, 0, 0, 0, 0)[:6]
        return struct.pack("=IIQ6Q", self.number & _WORD, self.arch, self.ip, *padded)


class Filter:
    """A filter that passed the checks of bpf_check_classic and seccomp_check_filter.

    Raises `BadFilter` otherwise.
    """

    def __init__(self, program: bytes) -> None:
        if len(program) % 8 or not 0 < len(program) <= 4096 * 8:
            raise BadFilter("not 1 to 4096 instructions")
        self.lines = list(struct.iter_unpack("=HBBI", program))
        for at, line in enumerate(self.lines):
            self._check(at, *line)
        if self.lines[-1][0] not in (_RET_K, _RET_A):
            raise BadFilter("the last instruction does not return")
        self._check_scratch()

    def _check(self, at: int, code: int, true: int, false: int, k: int) -> None:
        left = len(self.lines) - at - 1
        if code not in _KNOWN:
            raise BadFilter(f"instruction {at}: unknown code {code:#x}")
        if code == _LD_ABS and (k % 4 or k >= _DATA_SIZE):
            raise BadFilter(f"instruction {at}: load at offset {k}")
        if code in (_LD_MEM, _LDX_MEM, _ST, _STX) and k >= _SCRATCH:
            raise BadFilter(f"instruction {at}: scratch word {k}")
        if code == _JA and k >= left:
            raise BadFilter(f"instruction {at}: jump behind the end")
        if code in _JUMPS and max(true, false) >= left:
            raise BadFilter(f"instruction {at}: jump behind the end")
        if code == 0x34 and k == 0:
            raise BadFilter(f"instruction {at}: division by 0")
        if code in (0x64, 0x74) and k >= 32:
            raise BadFilter(f"instruction {at}: shift by {k}")

    def _check_scratch(self) -> None:
        """No scratch word is read on a way that did not write it (check_load_and_stores)."""
        every = (1 << _SCRATCH) - 1
        valid = [every] * len(self.lines)
        now = 0
        for at, (code, true, false, k) in enumerate(self.lines):
            now &= valid[at]
            if code in (_ST, _STX):
                now |= 1 << k
            elif code in (_LD_MEM, _LDX_MEM) and not now >> k & 1:
                raise BadFilter(f"instruction {at}: scratch word {k} is not written yet")
            elif code == _JA:
                valid[at + 1 + k] &= now
                now = every
            elif code in _JUMPS:
                valid[at + 1 + true] &= now
                valid[at + 1 + false] &= now
                now = every

    def run(self, call: SystemCall) -> int:
        """The answer, SECCOMP_RET_*."""
        data = call.pack()
        accumulator = index = at = 0
        scratch = [0] * _SCRATCH
        while True:
            code, true, false, k = self.lines[at]
            at += 1
            operand = index if code & 0x08 else k
            if code in (_RET_K, _RET_A):
                return k if code == _RET_K else accumulator
            if code == _LD_ABS:
                (accumulator,) = struct.unpack_from("=I", data, k)
            elif code in (_LD_LEN, _LD_IMM, _LD_MEM):
                accumulator = {_LD_LEN: _DATA_SIZE, _LD_IMM: k}.get(code, scratch[k % _SCRATCH])
            elif code in (_LDX_LEN, _LDX_IMM, _LDX_MEM):
                index = {_LDX_LEN: _DATA_SIZE, _LDX_IMM: k}.get(code, scratch[k % _SCRATCH])
            elif code in (_ST, _STX):
                scratch[k] = accumulator if code == _ST else index
            elif code == _TAX:
                index = accumulator
            elif code == _TXA:
                accumulator = index
            elif code == _JA:
                at += k
            elif code in _JUMPS:
                at += true if _holds(_JUMPS[code], accumulator, operand) else false
            elif code in (0x3C,) and operand == 0:
                return 0
            else:
                accumulator = _calculated(_ARITHMETIC[code], accumulator, operand)


def _holds(test: str, left: int, right: int) -> bool:
    match test:
        case "eq":
            return left == right
        case "gt":
            return left > right
        case "ge":
            return left >= right
        case _:
            return bool(left & right)


def _calculated(operation: str, left: int, right: int) -> int:
    match operation:
        case "add":
            result = left + right
        case "sub":
            result = left - right
        case "mul":
            result = left * right
        case "div":
            result = left // right
        case "or":
            result = left | right
        case "and":
            result = left & right
        case "xor":
            result = left ^ right
        case "lsh":
            result = left << (right & 31)
        case "rsh":
            result = left >> (right & 31)
        case _:
            result = -left
    return result & _WORD
