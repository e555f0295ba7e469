"""From rules to a seccomp filter: classic BPF over struct seccomp_data.

Sources: seccomp(2), <linux/seccomp.h>, <linux/bpf_common.h>.  A filter is a balanced tree of
comparisons of the number; what it answers depends on number and architecture alone wherever that
is possible, since the kernel (5.11 and later) then answers from a bitmap without running it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

ALLOW = 0x7FFF0000
LOG = 0x7FFC0000
TRAP = 0x00030000
KILL_PROCESS = 0x80000000
ERRNO = 0x00050000
"""SECCOMP_RET_*; ERRNO takes the error's number in its low 16 bits."""
ENOSYS = ERRNO | 38

ARCH_X86_64 = 0xC000003E
"""AUDIT_ARCH_X86_64 (<linux/audit.h>)."""
X32_BIT = 0x40000000
"""__X32_SYSCALL_BIT (<asm/unistd.h>): these share the architecture but not the numbers."""
RT_SIGACTION = 13
SIGSYS = 31

_NUMBER, _ARCH, _IP, _ARGUMENTS = 0, 4, 8, 16
"""Offsets in struct seccomp_data, bytes."""
_LOAD, _JEQ, _JGE, _JA, _RET = 0x20, 0x15, 0x35, 0x05, 0x06
_MOST_RUNS = 200
"""So that conditional jumps, which reach 255 instructions far, reach every leaf."""

Range = tuple[int, int]
Line = tuple[int, int, int, int]
"""One struct sock_filter: (code, jump if true, jump if false, k)."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a filter says."""

    allowed: frozenset[int]
    deny: int
    """The answer to everything else (SECCOMP_RET_*)."""
    newest: int = X32_BIT
    """Denied numbers above this one are answered with ENOSYS: whoever tries a call that is newer
    than the libc has a way without it."""
    foreign: int = KILL_PROCESS
    """The answer to other architectures and to x32."""
    keeps_sigsys: bool = False
    """A new handler of SIGSYS is neither refused nor set: the one that reports stays."""
    origins: tuple[Range, ...] = ()
    """[start, end) of the code that may make calls, run-time addresses; none: all may."""
    anywhere: frozenset[int] = field(default_factory=frozenset)
    """Numbers that are allowed from outside of ``origins`` as well."""
    reports_with: int | None = None
    """A number that is allowed from anywhere on descriptor 2."""


def assemble(rules: Rules) -> bytes:
    """The filter as an array of struct sock_filter, 8 bytes each."""
    origin = _origin_check(rules)
    head: list[Line] = [
        (_LOAD, 0, 0, _ARCH),
        (_JEQ, 1, 0, ARCH_X86_64),
        (_RET, 0, 0, rules.foreign),
        (_LOAD, 0, 0, _NUMBER),
    ]
    tree = _tree(_leaves(rules), lambda leaf: _leaf(leaf, rules, origin))
    return b"".join(struct.pack("=HBBI", *line) for line in head + tree)


def _leaves(rules: Rules) -> list[tuple[int, int]]:
    """(first number, leaf) of each run of numbers with one answer; a leaf is `_DENY`, `_NEW`,
    `_ALLOW`, `_FOREIGN`, or a number that has code of its own."""
    special: set[int | None] = {RT_SIGACTION} if rules.keeps_sigsys else set()
    if rules.origins:
        special |= {rules.reports_with, *rules.anywhere}
    wanted = rules.allowed | (rules.anywhere if rules.origins else frozenset())
    edges = {0, *wanted, *(number + 1 for number in wanted)}
    if rules.newest < X32_BIT:
        edges.add(rules.newest + 1)
    runs: list[tuple[int, int]] = []
    for number in sorted(edges):
        if number not in wanted:
            leaf = _NEW if number > rules.newest else _DENY
        else:
            leaf = number if number in special else _ALLOW
        if not runs or runs[-1][1] != leaf:
            runs.append((number, leaf))
    return [*runs, (X32_BIT, _FOREIGN)]


_DENY, _NEW, _ALLOW, _FOREIGN = -1, -2, -3, -4


def _leaf(leaf: int, rules: Rules, origin: list[Line]) -> list[Line]:
    answers = {_DENY: rules.deny, _NEW: ENOSYS, _FOREIGN: rules.foreign}
    if leaf in answers:
        return [(_RET, 0, 0, answers[leaf])]
    allow: list[Line] = [(_RET, 0, 0, ALLOW)]
    checked = origin or allow
    if leaf == _ALLOW:
        return checked
    if leaf in rules.anywhere:
        return allow
    code: list[Line] = []
    if leaf == RT_SIGACTION:
        # sigaction(SIGSYS, action, ...) with an action: the kernel takes an int for the signal.
        code += [
            (_LOAD, 0, 0, _ARGUMENTS),
            (_JEQ, 0, 5, SIGSYS),
            (_LOAD, 0, 0, _ARGUMENTS + 8),
            (_JEQ, 0, 2, 0),
            (_LOAD, 0, 0, _ARGUMENTS + 12),
            (_JEQ, 1, 0, 0),
            (_RET, 0, 0, ERRNO),
        ]
    if leaf == rules.reports_with:
        code += [(_LOAD, 0, 0, _ARGUMENTS), (_JEQ, 0, 1, 2), (_RET, 0, 0, ALLOW)]
    return code + checked


def _origin_check(rules: Rules) -> list[Line]:
    """Allow what comes from the ranges.  The kernel shows the address behind the instruction
    ``syscall``, which has two bytes."""
    by_half: dict[int, list[Range]] = {}
    for start, end in joined((start + 2, end + 1) for start, end in rules.origins):
        for high in range(start >> 32, (end - 1 >> 32) + 1):
            base = high << 32
            by_half.setdefault(high, []).append(
                (max(start, base) - base, min(end, base + (1 << 32)) - base)
            )
    code: list[Line] = []
    for high, ranges in by_half.items():
        runs = [(0, rules.deny)]
        for start, end in ranges:
            runs += [(start, ALLOW), (end, rules.deny)]
        runs = [run for run in runs if run[0] < 1 << 32]
        if runs[1][0] == 0:
            del runs[0]
        low = [(_LOAD, 0, 0, _IP), *_tree(runs, lambda verdict: [(_RET, 0, 0, verdict)])]
        code += [(_LOAD, 0, 0, _IP + 4), (_JEQ, 1, 0, high), (_JA, 0, 0, len(low)), *low]
    return [*code, (_RET, 0, 0, rules.deny)] if code else []


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in order, those that touch made one."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _tree(runs: Sequence[tuple[int, int]], leaf: Callable[[int], list[Line]]) -> list[Line]:
    """Code that finds the run that holds the accumulator; runs are (first value, leaf).

    Comparisons come first and lead straight to the code of the leaves, of which there is one each.
    """
    if len(runs) > _MOST_RUNS:
        middle = len(runs) // 2
        below, above = _tree(runs[:middle], leaf), _tree(runs[middle:], leaf)
        return [(_JGE, 0, 1, runs[middle][0]), (_JA, 0, 0, len(below)), *below, *above]
    count = len(runs) - 1
    # The longest last: only where code begins must be in reach.
    codes = sorted((len(leaf(one)), one) for one in {one for _, one in runs})
    starts, at = {}, count
    for length, one in codes:
        starts[one] = at
        at += length
    lines: list[Line] = [(0, 0, 0, 0)] * count
    free = 0

    def place(low: int, high: int) -> int:
        """Put the comparisons of some runs; where they begin."""
        nonlocal free
        if high - low == 1:
            return starts[runs[low][1]]
        here, middle = free, (low + high) // 2
        free += 1
        below, above = place(low, middle), place(middle, high)
        lines[here] = (_JGE, above - here - 1, below - here - 1, runs[middle][0])
        return here

    place(0, len(runs))
    return lines + [line for _, one in codes for line in leaf(one)]
