"""The launcher on damaged entries: it starts the program, plainly or through the image.

Never a crash, never anything else.  Where the checksum does not fit, the entry must not be believed
at all; where it is made to fit, every offset and count is the launcher's own to check.  No Python
runs in the starts, so there are thousands.
"""

from __future__ import annotations

import os
import random
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.programs.starts import Place, told

from spidl.cache.entry import Damaged, Mark, checksum, decode, encode
from spidl.launch import AGAIN, LAUNCHER

ROUNDS = int(os.environ.get("SPIDL_FUZZ_ROUNDS", "1000"))
HEADER, INPUT = 152, 64
WORDS = (0, 1, 2, 7, 8, 63, 64, 151, 152, 160, 1 << 16, (1 << 24) - 1, 1 << 24, 1 << 31,
         (1 << 32) - 64, (1 << 32) - 8, (1 << 32) - 1)  # fmt: skip
FLAGS = 20
"""The offset of the header's flags."""


@dataclass
class Kept:
    """An entry that is in use, and starts of its program through it."""

    place: Place
    entry: Path
    content: bytes
    stale: str
    """What an image says that does not fit its start."""

    def start(self, content: bytes, *, stale: bool = False) -> str:
        """What the program prints, or how it failed."""
        self.entry.write_bytes(content)
        # Messages show more of an entry; they come before all that the program prints.
        env = self.place.environment(SPIDL_RELINK="never", SPIDL_VERBOSE="1")
        if stale:
            env["SPIDL_STALE"] = self.stale
        words = [str(self.place.main)] if stale else [LAUNCHER, "run", str(self.place.main)]
        out, to = os.pipe()
        child = os.posix_spawn(
            AGAIN if stale else LAUNCHER, words, env,
            file_actions=[(os.POSIX_SPAWN_DUP2, to, 1), (os.POSIX_SPAWN_DUP2, to, 2)],
        )  # fmt: skip
        os.close(to)
        text = b""
        while part := os.read(out, 4096):
            text += part
        os.close(out)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        lines = text.decode(errors="replace").splitlines()
        return lines[-1] if status == 0 and lines else f"{status}: {text!r}"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    place = Place(tmp_path_factory.mktemp("kept"))
    assert place.start() == told(1, "image")
    [image] = place.images()
    entry = image.parent / "entry"
    decoy = image.parent / image.name[1:]  # where the name's offset is one too high
    decoy.write_text("#!/bin/sh\necho decoy\n")
    decoy.chmod(0o700)
    # A mutant that says it enforces a policy would be linked again, and be another image.
    before = decode(entry.read_bytes())
    words = [word for word in before.words if not word.startswith("I")]
    content = encode(replace(before, words=(*words, "I/bin/false")))
    made = Kept(place, entry, content, f"-{image.parent}\n{place.main}")
    assert made.start(made.content) == "1 image"
    return made


def fitting(content: bytes | bytearray, *, size: bool = True) -> bytes:
    """With the checksum, and the size where it is not what was damaged."""
    whole = bytearray(content[: len(content) // 8 * 8])
    if len(whole) < 24:
        return bytes(whole)
    if size:
        struct.pack_into("<I", whole, 16, len(whole))
    struct.pack_into("<Q", whole, 8, checksum(bytes(whole)))
    return bytes(whole)


def mutate(content: bytes, pick: random.Random) -> tuple[bytearray, bool]:
    """One to three damages; whether the size is to be put right."""
    mutant, size = bytearray(content), True
    for _ in range(pick.choice((1, 1, 2, 3))):
        kind = pick.choice(("bit", "header", "header", "header", "offset", "input", "input",
                            "splice", "cut", "grow", "zero"))  # fmt: skip
        room = len(mutant)
        if kind == "bit":
            mutant[pick.randrange(room)] ^= 1 << pick.randrange(8)
        elif kind == "header" and room >= HEADER:
            at = 16 + 4 * pick.randrange(14)
            size &= at != 16
            struct.pack_into("<I", mutant, at, pick.choice((*WORDS, room, room - 1, room - 8)))
        elif kind == "offset" and room >= HEADER:
            at = 24 + 4 * pick.randrange(10)
            [old] = struct.unpack_from("<I", mutant, at)
            struct.pack_into("<I", mutant, at, (old + pick.randrange(-9, 10)) % (1 << 32))
        elif kind == "input" and room >= HEADER + INPUT:
            at = HEADER + 4 * pick.randrange((room - HEADER) // 4)
            struct.pack_into("<I", mutant, at, pick.choice((*WORDS, pick.randrange(room))))
        elif kind == "splice":
            source, at = pick.randrange(room), pick.randrange(room)
            part = mutant[source : source + pick.choice((8, 64, 512))]
            mutant[at : at + len(part)] = part
        elif kind == "cut" and room > 1:
            del mutant[pick.randrange(1, room) :]
        elif kind == "grow":
            mutant += pick.choice((b"\0", b"/")) * pick.choice((1, 8, 4096))
        elif kind == "zero":
            at = pick.randrange(room)
            mutant[at : at + 64] = bytes(len(mutant[at : at + 64]))
    return mutant, size


def refused(content: bytes, answer: str) -> bool:
    """Where the entry says, whole, that there may be a policy to enforce: never plainly.

    By its flags, or by a spidl.toml that its path was made to lead to.
    """
    policy = len(content) > FLAGS and content[FLAGS] & Mark.POLICY
    with suppress(Damaged):
        words = decode(content).words
        policy |= any(word[:1] == "F" and os.path.exists(word[1:]) for word in words)
    return bool(policy) and answer.partition(":")[0] in ("2", "126")


@pytest.mark.parametrize("stale", [False, True])
def test_mutants_whose_checksum_fits(kept: Kept, stale: bool) -> None:
    """Through the door of every start, and through the one by which an image comes back."""
    answers: Counter[str] = Counter()
    for number in range(ROUNDS):
        mutant, size = mutate(kept.content, random.Random(number))
        content = fitting(mutant, size=size)
        answer = kept.start(content, stale=stale)
        assert answer in ("1 image", "1 plain") or refused(content, answer), (number, answer)
        answers[answer] += 1
    if not stale:
        # Both happen often: what no start looks at may be damaged, all else must not be.
        assert min(answers["1 image"], answers["1 plain"]) > ROUNDS // 10, answers
    else:
        assert answers["1 plain"] > ROUNDS // 2, answers


def test_mutants_whose_checksum_does_not_fit(kept: Kept) -> None:
    for number in range(ROUNDS // 3):
        mutant, _ = mutate(kept.content, random.Random(number))
        if bytes(mutant) != kept.content:
            assert kept.start(bytes(mutant)) == "1 plain", number


def test_cut_at_every_place(kept: Kept) -> None:
    """As a write that stopped; also where the rest is zeros, as after a crash of the machine."""
    for size in range(0, len(kept.content), 13):
        head = kept.content[:size]
        assert kept.start(head) == "1 plain"
        filled = head + bytes(len(kept.content) - size)
        assert kept.start(filled) == ("1 image" if filled == kept.content else "1 plain")
    assert kept.start(kept.content) == "1 image"


def test_every_byte_of_the_header(kept: Kept) -> None:
    """One bit flipped alone, checksum as it was."""
    pick = random.Random(0)
    for at in range(HEADER):
        damaged = bytearray(kept.content)
        damaged[at] ^= 1 << pick.randrange(8)
        assert kept.start(bytes(damaged)) == "1 plain"


def test_another_program_in_the_entry(kept: Kept) -> None:
    """What came back says which program it is for; the entry's own word does not lead elsewhere."""
    name = b"P" + os.fsencode(kept.place.main)
    assert decode(kept.content).words[0] == os.fsdecode(name)
    for other in (b"P/bin/echo", b"P/bin/false", b"Prelative", b"P", b"X"):
        content = kept.content.replace(name + b"\0", other.ljust(len(name), b"\0") + b"\0")
        assert content != kept.content
        assert kept.start(fitting(content), stale=True) == "1 plain"
