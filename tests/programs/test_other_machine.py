"""An image on another machine: the tables of real images, rewritten as if they came from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from spidl.elf import PT, ElfFile
from spidl.link.actions import Action, CheckAuxv, CheckCpuid, CheckVdso, MapFile, TableFlag
from spidl.targets.exec.boot import load_boot
from spidl.targets.exec.table import decode, encode

from .attack import environment, library, plainly, program, spidl_with
from .harness import Outcome, run
from .test_bad_input import ASKS, VALUE


@pytest.fixture
def main(tmp_path: Path) -> Path:
    lib = library(tmp_path / "place/libvalue.so", VALUE)
    return program(tmp_path / "place/program", ASKS, lib)


def with_table(image: Path, change: Callable[[Action], Action | None], flags: int = 0) -> int:
    """Rewrite an image's action table; gives how many actions were changed.  None drops one."""
    elf = ElfFile.open(str(image))
    boot = load_boot()
    at = elf.file_offset(elf.entry - boot.entry + boot.table)
    content = bytearray(elf.data.tobytes())
    room = next(int(p["p_filesz"]) for p in elf.phdrs
                if p["p_type"] == PT.LOAD and p["p_offset"] == at)  # fmt: skip
    table = decode(bytes(content[at : at + room]))
    changed = [change(action) for action in table.actions]
    data = encode([a for a in changed if a is not None], program=table.program,
                  spans=table.spans, flags=TableFlag(table.flags | flags))  # fmt: skip
    assert len(data) <= room
    content[at : at + room] = data.ljust(room, b"\0")
    image.unlink()
    image.write_bytes(content)
    image.chmod(0o700)
    return sum(new != old for new, old in zip(changed, table.actions, strict=True))


def other_cpu(action: Action) -> Action:
    if isinstance(action, CheckCpuid) and any(action.masks):
        eax, *others = (v ^ m for v, m in zip(action.values, action.masks, strict=True))
        return replace(action, values=(eax, others[0], others[1], others[2]))
    return action


def other_kernel(action: Action) -> Action:
    if isinstance(action, CheckVdso):
        return replace(action, content=bytes(b ^ 1 for b in action.content))
    return action


def other_feature(action: Action) -> Action:
    return replace(action, value=action.value ^ 1) if isinstance(action, CheckAuxv) else action


MACHINES = {"CPU": other_cpu, "kernel": other_kernel, "auxiliary vector": other_feature}


@pytest.fixture
def image(main: Path, tmp_path: Path) -> Path:
    path = tmp_path / "image"
    result = spidl_with(["build", main, "-o", path])
    assert result.status == 0, result
    return path


def test_the_table_can_be_rewritten(main: Path, image: Path) -> None:
    """Else the next tests would pass on any broken image."""
    assert with_table(image, lambda action: action) == 0
    verbose = run([str(main)], executable=image, env=environment(SPIDL_VERBOSE="1"))
    assert verbose == Outcome(b"1\n", b"", 0)


@pytest.mark.parametrize("machine", MACHINES)
def test_another_machine(main: Path, image: Path, machine: str) -> None:
    assert with_table(image, MACHINES[machine]) > 0
    verbose = run([str(main)], executable=image, env=environment(SPIDL_VERBOSE="1"))
    assert plainly(verbose, b"1\n"), verbose
    assert run([str(main)], executable=image, env=environment()) == Outcome(b"1\n", b"", 0)


@pytest.mark.parametrize("machine", MACHINES)
def test_another_machine_under_a_policy(main: Path, image: Path, machine: str) -> None:
    """What must not run unprotected does not run."""
    assert with_table(image, MACHINES[machine], TableFlag.POLICY) > 0
    result = run([str(main)], executable=image, env=environment())
    assert (result.stdout, result.status) == (b"", 126), result
    assert result.stderr.startswith(b"spidl: "), result


def test_unchanged_under_a_policy(main: Path, image: Path) -> None:
    with_table(image, lambda action: action, TableFlag.POLICY)
    result = run([str(main)], executable=image, env=environment(SPIDL_VERBOSE="1"))
    assert result == Outcome(b"1\n", b"", 0)


def test_changed_library_under_a_policy(main: Path, image: Path) -> None:
    def other(action: Action) -> Action:
        if isinstance(action, MapFile) and b"libvalue" in action.path:
            return replace(action, identity=replace(action.identity, inode=1))
        return action

    assert with_table(image, other, TableFlag.POLICY) == 1
    result = run([str(main)], executable=image, env=environment())
    assert (result.stdout, result.status) == (b"", 126), result
