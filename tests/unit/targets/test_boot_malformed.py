"""Malformed action tables end in one line and status 127, never in a signal."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from tinyimage import BOOT, DATA, FREE, PLAIN, PROGRAM, SPANS, Tiny

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
    CheckVdso,
    FileIdentity,
    Filter,
    Gate,
    Identity,
    Jump,
    Kind,
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
    ThreadCall,
    Word,
)
from spidl.targets.exec.boot import load_boot, parse_boot
from spidl.targets.exec.layout import ACTION, HEADER, OPENED, OPENING
from spidl.targets.exec.table import encode

SOURCES = Path(__file__).parents[3] / "boot"
READ = Protection.READ


DIFFERS = CheckAuxv(6, 1)
REPORT = Report((Origin(0, 1, b"a"),), (b"read",), 20)
IDENTITY = FileIdentity(1, 2, 3, (4, 5), (6, 7))
GATE = Gate(
    (Origin(0, 1, b"a"),),
    (Opening((b"a",), (OpenedFile(b"/a", IDENTITY),), (0,)),),
    PROGRAM,
    PROGRAM,
)
EVERY: tuple[Action, ...] = (
    CheckEnvironment((b"LD_A=1",)),
    CheckCpuid(0, 0, (0,) * 4, (0,) * 4),
    CheckVdso(0, b"\x7fELF"),
    CheckFile(b"/a", FileIdentity(1, 2, 3, (4, 5), (6, 7))),
    CheckAbsent(b"/a"),
    MapFile(b"/a", FileIdentity(1, 2, 3, (4, 5), (6, 7)), (Segment(FREE, 1, 0, READ),)),
    Patch((Word(FREE, Anchor.STACK, 0),)),
    Filter(bytes(8)),
    Identity(0, 0, 0, 0, b"/a", (0, 0), (0, 0)),
    REPORT,
    GATE,
)
USES = {  # the offsets that each of EVERY follows
    0: ("array", "count"), 1: ("array", "count"), 2: ("array", "count"), 3: ("path", "identity"),
    4: ("path",), 5: ("array", "count", "path", "identity"), 6: ("array", "count"),
    7: ("array", "count"), 8: ("array", "count", "path"), 9: ("array", "count"),
    10: ("array", "count"),
}  # fmt: skip


def malformed(tiny: Tiny, table: bytes) -> str:
    done = tiny.run(tiny.write(table))
    assert (done.returncode, done.stdout) == (127, b"")
    start = "spidl: error[start/table]: "
    message = done.stderr.decode()
    assert message.startswith(start)
    assert message.count("\n") == 1
    return message.removeprefix(start).rstrip()


def table_of(*actions: Action) -> bytearray:
    return bytearray(encode((*actions, Jump(PROGRAM)), program=PLAIN, spans=SPANS))


@pytest.mark.parametrize("value", [0x7FFFFFF8, 0xFFFFFFFF, 0xFFFFFFF8, "size"])
@pytest.mark.parametrize(
    ("index", "field"), [(index, field) for index, fields in USES.items() for field in fields]
)
def test_every_offset_out_of_range(tiny: Tiny, index: int, field: str, value: int | str) -> None:
    table = table_of(EVERY[index])
    at = HEADER.size + 16 * len(SPANS) + ACTION.offsets()[field]
    struct.pack_into("<I", table, at, len(table) if isinstance(value, str) else value)
    malformed(tiny, bytes(table))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("magic", 0, "no action table"),
        ("version", 1, "action table of another version"),
        ("size", 8, "bad table size"),
        ("size", 0x7000_0000, "table size beyond the image"),
        ("flags", 2, "unknown flags"),
        ("program", 0xFFFFFFFF, "bad program path"),
        ("program", "end", "bad program path"),
        ("actions", 0xFFFFFFF8, "bad action array"),
        ("actions", 4, "bad action array"),
        ("action_count", 0xFFFFFFFF, "bad action array"),
        ("action_count", 0, "bad action array"),
        ("spans", 0xFFFFFFF8, "bad span array"),
        ("span_count", 0xFFFFFFFF, "bad span array"),
    ],
)
def test_a_broken_header(tiny: Tiny, field: str, value: int | str, message: str) -> None:
    table = table_of()
    number = len(table) - 1 if isinstance(value, str) else value
    struct.pack_into("<I", table, HEADER.offsets()[field], number)
    assert malformed(tiny, bytes(table)) == message


def test_a_table_whose_last_string_has_no_end(tiny: Tiny) -> None:
    assert malformed(tiny, bytes(table_of()[:-1]) + b"x") == "unterminated table"


@pytest.mark.parametrize(
    "span",
    [
        (PROGRAM, PROGRAM),
        (PROGRAM + 1, PROGRAM + 0x1000),
        (PROGRAM, 1 << 48),
        (0, 0x1000),
        (BOOT, BOOT + 0x1000),
        (0x1000, 1 << 47),
    ],
)
def test_a_span_that_is_no_span_or_holds_boot(tiny: Tiny, span: tuple[int, int]) -> None:
    table = table_of()
    struct.pack_into("<QQ", table, HEADER.size, *span)
    assert malformed(tiny, bytes(table)) == "bad span"


@pytest.mark.parametrize(
    ("action", "value", "number", "message"),
    [
        (Call(PROGRAM), 0, 1 << 47, "bad function address"),
        (CallStore(PROGRAM, DATA), 1, SPANS[0][1] - 7, "address outside the spans"),
        (CallStore(PROGRAM, DATA), 1, (1 << 64) - 8, "address outside the spans"),
        (Protect(DATA, 4096, READ), 1, (1 << 64) - 1, "address outside the spans"),
        (Protect(DATA, 4096, READ), 0, BOOT, "address outside the spans"),
        (SetThread(ThreadCall.ARCH_PRCTL, (0x1002, 0, 0, 0)), 0, 0x1003, "bad arch_prctl"),
        (CheckVdso(0, b"\x7fELF"), 0, (1 << 64) - 1, "bytes outside the vDSO's first page"),
        (Filter(bytes(8)), 0, 8, "bad filter"),
        (Filter(bytes(8)), 1, 1, "bad function address"),
        (GATE, 0, 1 << 47, "bad function address"),
        (GATE, 1, 0, "bad function address"),
        (GATE, 2, 1 << 32, "array outside the table"),
        (GATE, 3, 1 << 20, "array outside the table"),
        (REPORT, 0, 1 << 32, "array outside the table"),
        (REPORT, 1, 1 << 32, "array outside the table"),
        (REPORT, 1, 1 << 20, "array outside the table"),
    ],
)
def test_bad_values(tiny: Tiny, action: Action, value: int, number: int, message: str) -> None:
    table = table_of(action)
    at = HEADER.size + 16 * len(SPANS) + ACTION.offsets()["value"] + 8 * value
    struct.pack_into("<Q", table, at, number)
    assert malformed(tiny, bytes(table)) == message


def test_a_filter_longer_than_the_kernel_takes(tiny: Tiny) -> None:
    table = table_of(Filter(bytes(8) * 4096), CheckVdso(0, bytes(4096)))
    at = HEADER.size + 16 * len(SPANS) + ACTION.offsets()["count"]
    struct.pack_into("<I", table, at, 4097)
    assert malformed(tiny, bytes(table)) == "bad filter"


@pytest.mark.parametrize("kind", [0, max(Kind) + 1, 0xFFFFFFFF])
def test_an_unknown_action(tiny: Tiny, kind: int) -> None:
    table = table_of(Call(PROGRAM))
    struct.pack_into("<I", table, HEADER.size + 16 * len(SPANS), kind)
    assert malformed(tiny, bytes(table)) == "unknown action"


def test_nothing_is_done_before_the_whole_table_is_checked(tiny: Tiny) -> None:
    table = table_of(DIFFERS, Call(PROGRAM))
    struct.pack_into("<I", table, HEADER.size + 16 * len(SPANS) + ACTION.size, 99)
    assert malformed(tiny, bytes(table)) == "unknown action"


# --- the installed file ---------------------------------------------------------------------------


def test_boot_that_was_not_built(tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        load_boot(tmp_path / "boot.elf")
    assert caught.value.code == "exec/no-boot"
    assert "make -C boot" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\x7fELF\x02\x01" + bytes(58), b"x" * 5000])
def test_a_file_that_is_not_boot(data: bytes) -> None:
    with pytest.raises(LinkError) as caught:
        parse_boot(data, "boot.elf")
    assert caught.value.code == "exec/bad-boot"


@pytest.mark.parametrize("field", OPENING.offsets())
@pytest.mark.parametrize("value", [0x7FFFFFF8, 0xFFFFFFFF, 0xFFFFFFF8])
def test_what_an_opening_follows(tiny: Tiny, field: str, value: int) -> None:
    table = table_of(GATE)
    (array,) = struct.unpack_from(
        "<I", table, HEADER.size + 16 * len(SPANS) + ACTION.offsets()["array"]
    )
    struct.pack_into("<I", table, array + OPENING.offsets()[field], value)
    assert malformed(tiny, bytes(table)) == "array outside the table"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("path", 0xFFFFFFFF, "string outside the table"),
        ("identity", 0xFFFFFFF8, "array outside the table"),
        ("identity", 4, "array outside the table"),
        ("identity", 0, "array outside the table"),
    ],
)
def test_the_file_of_an_opening(tiny: Tiny, field: str, value: int, message: str) -> None:
    table = table_of(GATE)
    (array,) = struct.unpack_from(
        "<I", table, HEADER.size + 16 * len(SPANS) + ACTION.offsets()["array"]
    )
    (files,) = struct.unpack_from("<I", table, array + OPENING.offsets()["files"])
    struct.pack_into("<I", table, files + OPENED.offsets()[field], value)
    assert malformed(tiny, bytes(table)) == message
