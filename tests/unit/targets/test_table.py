"""Action tables: what the encoder writes, the decoder reads back; both refuse what boot would."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spidl.diagnostics import LinkError
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
from spidl.targets.exec.header import header
from spidl.targets.exec.layout import ACTION, HEADER
from spidl.targets.exec.table import Table, decode, encode

BOOT = Path(__file__).parents[3] / "boot"
AREA = 0x2000_0000
SPANS = ((AREA, AREA + 0x2000), (0x3000_0000, 0x3000_1000))
FILE = FileIdentity(0xFE01, 12345, 987, (-5, 999_999_999), (1_700_000_000, 1))
READ = Protection.READ

EVERY: tuple[Action, ...] = (
    CheckEnvironment((b"LD_PRELOAD=/a.so", b"MALLOC_ARENA_MAX=1")),
    CheckEnvironment(()),
    CheckAuxv(16, (1 << 64) - 1),
    CheckCpuid(7, 0, (1, 2, 3, 0xFFFFFFFF), (1, 2, 3, 4)),
    CheckVdso(0x600, b"GNU\0" + bytes(range(20))),
    CheckVdso(0, b""),
    CheckStackLimit(0, (1 << 64) - 1),
    CheckFile(b"/lib/a.so", FILE),
    CheckAbsent(b"/lib/b.so"),
    MapFile(b"/lib/a.so", FILE, (Segment(AREA, 0x1001, 0x3000, READ | Protection.EXEC),)),
    Patch((Word(AREA + 1, Anchor.STACK, -8), Word(AREA + 0x1FFC, Anchor.THREAD, 0, 4))),
    CallStore(0x40_0000, AREA + 0x1FF8),
    SetThread(ThreadCall.ARCH_PRCTL, (0x1002, AREA, 0, 0)),
    SetThread(ThreadCall.RSEQ, (AREA, 32, 0, 0x53053053)),
    Protect(AREA, 0x2000, Protection.NONE),
    Filter(bytes(8) * 3, 2),
    Filter(bytes(8), 1, 0x40_0000),
    Report((Origin(AREA, AREA + 1, b"libc.so.6"),), (b"read", b"", b"open"), 20),
    Gate(
        (Origin(AREA, AREA + 1, b"libc.so.6"),),
        (
            Opening(
                (b"libone.so", b"one"),
                (
                    OpenedFile(b"/lib/libone.so", FILE),
                    OpenedFile(b"/lib/a.so", FILE, True),
                    OpenedFile(b"/first/a.so", None),
                ),
                (0, 1),
            ),
            Opening((), (OpenedFile(b"/lib/b.so", FILE),), ()),
        ),
        0x40_0000,
        0x40_0008,
    ),
    Call(0x40_0000),
    Identity(1, 2, 3, 4, b"/bin/true", (5, 6), (7, 8)),
    Jump(0x40_0000, 1, (1 << 64) - 2),
)


def fault(data: bytes) -> str:
    with pytest.raises(LinkError) as caught:
        decode(data)
    assert caught.value.code == "exec/bad-table"
    return caught.value.diagnostic.message


def encoded(*actions: Action) -> bytes:
    return encode((*actions, Jump(0x40_0000)), program=b"/bin/true", spans=SPANS)


def refused(*actions: Action) -> LinkError:
    with pytest.raises(LinkError) as caught:
        encoded(*actions)
    return caught.value


def test_every_action_comes_back() -> None:
    data = encode(EVERY, program=b"/bin/true", spans=SPANS, flags=TableFlag.POLICY)
    assert decode(data) == Table(EVERY, b"/bin/true", SPANS, TableFlag.POLICY)


def test_what_lies_behind_the_table_is_not_part_of_it() -> None:
    data = encoded()
    assert decode(data + b"\xff" * 5000) == decode(data)


def test_equal_strings_and_identities_are_stored_once() -> None:
    one = encoded(CheckFile(b"/lib/a.so", FILE))
    two = encoded(CheckFile(b"/lib/a.so", FILE), CheckFile(b"/lib/a.so", FILE))
    assert len(two) - len(one) == ACTION.size


def test_boots_header_is_the_generated_one() -> None:
    assert (BOOT / "actions.h").read_text() == header(), "run `make -C boot header`"


@pytest.mark.parametrize(
    "action",
    [
        MapFile(b"/a", FILE, (Segment(AREA, 0x2001, 0, READ),)),
        MapFile(b"/a", FILE, (Segment(AREA - 0x1000, 0x1000, 0, READ),)),
        MapFile(b"/a", FILE, (Segment(AREA, 0, 0, READ),)),
        MapFile(b"/a", FILE, (Segment(AREA + 1, 1, 0, READ),)),
        MapFile(b"/a", FILE, (Segment(AREA, 1, 8, READ),)),
        Patch((Word(AREA + 0x1FFC, Anchor.STACK, 0),)),
        Patch((Word(AREA - 1, Anchor.STACK, 0, 4),)),
        Patch((Word(AREA, Anchor.STACK, 0, 2),)),
        CallStore(0x40_0000, AREA + 0x1FF9),
        CallStore(0, AREA),
        Call(1 << 47),
        Protect(AREA + 0x1000, 0x1001, READ),
        SetThread(ThreadCall.ARCH_PRCTL, (0x1003, 0, 0, 0)),
        Filter(b""),
        Filter(bytes(8) * 4097),
        Filter(bytes(8), 8),
        Filter(bytes(8), 0, 1),
        Report((), (), 2),
        Gate((), ()),
        Gate((), (Opening((), (), ()),), 0x40_0000, 0x40_0000),
        Gate((), (Opening((), (OpenedFile(b"/lib/a.so", None),), ()),), 0x40_0000, 0x40_0000),
        CheckVdso(4090, bytes(7)),
        Jump(0x40_0000),
    ],
)
def test_what_boot_would_refuse_is_an_error_at_link_time(action: Action) -> None:
    assert refused(action).code == "exec/bad-table"


@pytest.mark.parametrize(
    "action",
    [
        CheckAbsent(b"/a\0b"),
        CheckCpuid(-1, 0, (0,) * 4, (0,) * 4),
        CheckFile(b"/a", FileIdentity(1, -1, 0, (0, 0), (0, 0))),
        Filter(bytes(7)),
    ],
)
def test_what_the_format_cannot_hold_is_an_error(action: Action) -> None:
    assert refused(action).code == "exec/bad-action"


def test_a_table_needs_a_jump_and_a_program() -> None:
    with pytest.raises(LinkError, match="JUMP must be the last"):
        encode((), program=b"/bin/true")
    with pytest.raises(LinkError, match="bad program path"):
        encode((Jump(0x40_0000),), program=b"")


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        ("magic", 1, "no action table"),
        ("version", 99, "another version"),
        ("size", 1 << 20, "bad table size"),
        ("flags", 0x80, "unknown flags"),
        ("program", 0xFFFFFFFF, "string outside"),
        ("actions", 0xFFFFFFF8, "array outside"),
        ("actions", 4, "array outside"),
        ("action_count", 0xFFFFFFFF, "array outside"),
        ("span_count", 0xFFFFFFFF, "array outside"),
    ],
)
def test_header_faults(offset: str, value: int, message: str) -> None:
    data = bytearray(encoded())
    struct.pack_into("<I", data, HEADER.offsets()[offset], value)
    assert message in fault(bytes(data))


def test_an_unterminated_table() -> None:
    assert "unterminated" in fault(encoded()[:-1] + b"x")


def test_a_fault_names_its_action() -> None:
    data = bytearray(encoded(CheckAbsent(b"/a"), CheckAbsent(b"/b")))
    at = HEADER.size + 16 * len(SPANS) + ACTION.size + ACTION.offsets()["path"]
    struct.pack_into("<I", data, at, len(data))
    assert "action 1: string outside the table" in fault(bytes(data))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_decoding_is_total(data: st.DataObject) -> None:
    table = bytearray(encode(EVERY, program=b"/bin/true", spans=SPANS))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(table) // 4 - 1)) * 4
        struct.pack_into("<I", table, at, data.draw(st.integers(0, (1 << 32) - 1)))
    mutant = bytes(table[: data.draw(st.integers(0, len(table)))])
    with suppress(LinkError):  # anything else is a bug
        decode(mutant)
