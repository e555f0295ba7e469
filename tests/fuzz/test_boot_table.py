"""Boot's checks and its interpreter on mutated tables, under the address and UB sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from spidl.link.actions import (
    Action,
    Anchor,
    Call,
    CallStore,
    CheckAbsent,
    CheckAuxv,
    CheckCpuid,
    CheckEnvironment,
    CheckFile,
    CheckStackLimit,
    CheckVdso,
    FileIdentity,
    Filter,
    Gate,
    Identity,
    Jump,
    MapFile,
    OpenedFile,
    Opening,
    Origin,
    Patch,
    Protect,
    Protection,
    Report,
    Segment,
    SetThread,
    TableFlag,
    ThreadCall,
    Word,
)
from spidl.targets.exec.table import Front, encode

BOOT = Path(__file__).parents[2] / "boot"
AREA = 0x2000_0000
SPANS = ((AREA, AREA + 0x4000), (0x3000_0000, 0x3001_0000))
FILE = FileIdentity(1, 2, 3, (4, 5), (6, 7))
"""What the fuzzer's machine says about every file."""

CHECKS: tuple[Action, ...] = (
    CheckEnvironment((b"LD_LIBRARY_PATH=/lib",)),
    CheckAuxv(3, 64),
    CheckCpuid(7, 1, (255, 255, 3, 0), (7, 1, 2, 0)),
    CheckVdso(0x100, bytes(20)),
    CheckStackLimit(1 << 20, 1 << 30),
    CheckFile(b"/lib/libone.so", FILE),
    CheckAbsent(b"/lib/absent.so"),
)
WORK: tuple[Action, ...] = (
    MapFile(
        b"/lib/libtwo.so",
        FILE,
        (
            Segment(AREA, 0x1800, 0, Protection.READ),
            Segment(AREA + 0x2000, 0x1000, 0x2000, Protection.READ | Protection.EXEC),
        ),
    ),
    Patch(tuple(Word(AREA + 8 * anchor, anchor, -anchor) for anchor in Anchor)),
    Patch((Word(AREA + 0x3FFC, Anchor.THREAD, 0, 4),)),
    CallStore(0x40_0000, AREA + 0x3FF8),
    *(SetThread(call, (0x1002, 24, 0, 0)) for call in ThreadCall),
    Protect(AREA, 0x2000, Protection.READ),
    Identity(AREA + 64, 9, 0, AREA + 0x100, b"/usr/bin/program", (AREA, AREA + 1), (AREA, AREA)),
    Filter(bytes(8) + b"\x06\0\0\0\0\0\xff\x7f", 2),
    Filter(bytes(8), 1, 0x40_0000),
    Report(
        (Origin(AREA, AREA + 64, b"libc.so.6"), Origin(0, 9, b"")), (b"read", b"", b"x" * 900), 20
    ),
    Gate(
        (Origin(0x4000_0000, 0x4000_0040, b"libc.so.6"), Origin(0, 1 << 47, b"y" * 900)),
        (
            Opening(
                (b"libone.so.1", b"x" * 900),
                (
                    OpenedFile(b"/lib/libone.so", FILE),
                    OpenedFile(b"/lib/libtwo.so", FILE, True),
                    OpenedFile(b"/lib/absent.so", None),
                ),
                (0,),
            ),
            Opening((), (OpenedFile(b"/lib/libthree.so", FILE),), (1, 2)),
        ),
        0x40_0000,
        0x40_0000,
    ),
    Call(0x40_0000),
)


def test_mutated_tables_are_refused_or_harmless(tmp_path: Path) -> None:
    subprocess.run(
        ["make", "-s", "-C", BOOT, f"BUILD={tmp_path}", f"{tmp_path}/fuzz_table"], check=True
    )
    seeds = []
    front = Front(b"/usr/bin/spidl", b"-/entry\n/usr/bin/program")
    for name, actions, flags, asked in (
        ("checks", CHECKS, 0, None),
        ("work", WORK, 0, front),
        ("policy", CHECKS + WORK, TableFlag.POLICY, None),
        ("kept policy", CHECKS + WORK, TableFlag.POLICY, front),
    ):
        seed = tmp_path / name
        seed.write_bytes(
            encode(
                (*actions, Jump(0x40_0000, 1, 2)),
                program=b"/usr/bin/program",
                spans=SPANS,
                flags=TableFlag(flags),
                front=asked,
            )
        )
        seeds.append(seed)
    rounds = os.environ.get("SPIDL_FUZZ_ROUNDS", "150000")
    done = subprocess.run(
        [tmp_path / "fuzz_table", rounds, "1", *seeds], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    counts = dict(zip(words[::2], map(int, words[1::2]), strict=True))
    # A third of the mutants still runs, the rest ends in one of the two ways: all were exercised.
    assert min(counts.values()) > int(rounds) // 20, counts
