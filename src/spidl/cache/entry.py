"""What is kept of a link besides the image: a file that the launcher and Python read.

``launcher/entry.h`` is the same in C.  Little-endian; offsets are in bytes from the start; the
file's size is a multiple of 8 and its last byte is NUL, so that every string ends.  On the way of
every link, warm or cold: standard library only.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntFlag

from spidl.cache.identity import Identity

MAGIC = int.from_bytes(b"SPIDTRY1", "little")
_HEADER = struct.Struct("<QQ12I7Q32s")
_INPUT = struct.Struct("<7QII")
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_BILLION = 10**9


class Mark(IntFlag):
    """Properties of an entry."""

    POLICY = 1
    """A module enforces a policy: never the plain way."""
    ERROR = 2
    """The link failed; the program starts as if Spidl were not there."""


_NO_MARKS = Mark(0)


class Use(IntFlag):
    """Properties of an input."""

    FRONT = 1
    """The image does not check it: the launcher does."""
    ABSENT = 2
    """Nothing may be there."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file that must be as it was, or a path where nothing may be (``identity`` None)."""

    path: str
    identity: Identity | None
    front: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """The content of an entry."""

    key: bytes
    """The text that the launcher makes of a request (launcher/key.c)."""
    words: tuple[str, ...]
    """The request: strings that begin with P, C, F, I or O (launcher/request.c)."""
    inputs: tuple[Input, ...]
    image: str | None
    """The image's file name; None where the program is refused."""
    message: str = ""
    """Why it is refused: ``refused[CODE]: TEXT``."""
    marks: Mark = _NO_MARKS
    boot: str = field(default_factory=lambda: boot_id())
    """The kernel's id of the machine's start, in which the link was made."""
    written: Identity | None = None
    digest: bytes = bytes(32)
    """The image's SHA-256."""


class Damaged(ValueError):
    """These bytes are no entry that this version wrote."""


def boot_id() -> str:
    """random(4)'s boot_id; empty where /proc does not have it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def checksum(content: bytes) -> int:
    """`hash_words` of launcher/key.c over what follows the checksum; ``content`` is an entry."""
    words = struct.unpack(f"<{len(content) // 8 - 2}Q", content[16:])
    result = len(words)
    for word in words:
        result = (result ^ word) * _GOLDEN & _WORD
        result ^= result >> 32
    return result


def encode(kept: Kept) -> bytes:
    """The file's bytes."""
    parts: list[bytes] = []
    at = _HEADER.size

    def put(content: bytes) -> int:
        nonlocal at
        parts.append(content + bytes(-len(content) % 8))
        at += len(parts[-1])
        return at - len(parts[-1])

    inputs_at = at
    at += _INPUT.size * len(kept.inputs)
    rows = []
    for given in kept.inputs:
        use = (Use.FRONT if given.front else 0) | (0 if given.identity else Use.ABSENT)
        path = put(os.fsencode(given.path) + b"\0")
        rows.append(_INPUT.pack(*_fields(given.identity), path, use))
    key = put(kept.key)
    text = b"".join(os.fsencode(word) + b"\0" for word in kept.words)
    words = put(text)
    image = put(os.fsencode(kept.image) + b"\0") if kept.image is not None else 0
    message = put(os.fsencode(kept.message) + b"\0")
    boot = put(kept.boot.encode() + b"\0")
    put(b"\0")
    body = b"".join((*rows, *parts))
    header = [
        at, kept.marks, key, len(kept.key), words, len(text), image, message, boot,
        inputs_at, len(rows), 0, *_fields(kept.written), kept.digest,
    ]  # fmt: skip
    unsigned = _HEADER.pack(MAGIC, 0, *header) + body
    return _HEADER.pack(MAGIC, checksum(unsigned), *header) + body


def decode(content: bytes) -> Kept:
    """The entry in a file's bytes.  Raises `Damaged`."""
    try:
        magic, stated, *numbers, digest = _HEADER.unpack_from(content)
        if magic != MAGIC or len(content) % 8 or numbers[0] != len(content) or content[-1]:
            raise Damaged("not an entry of this version")
        if stated != checksum(content):
            raise Damaged("a checksum that does not fit")
        (_, marks, key, key_size, words, words_size, image, message, boot, inputs, count, _,
         *written) = numbers  # fmt: skip
        if inputs + count * _INPUT.size > len(content):
            raise Damaged("inputs outside the file")

        def text(offset: int) -> str:
            return os.fsdecode(content[offset : content.index(b"\0", offset)])

        rows = [_INPUT.unpack_from(content, inputs + i * _INPUT.size) for i in range(count)]
        return Kept(
            key=content[key : key + key_size],
            words=tuple(os.fsdecode(w) for w in
                        content[words : words + words_size].split(b"\0")[:-1]),
            inputs=tuple(
                Input(text(path), None if use & Use.ABSENT else _identity(numbers),
                      bool(use & Use.FRONT))
                for *numbers, path, use in rows
            ),
            image=text(image) if image else None,
            message=text(message),
            marks=Mark(marks),
            boot=text(boot),
            written=_identity(written) if image else None,
            digest=digest,
        )  # fmt: skip
    except (struct.error, ValueError, IndexError) as error:
        raise Damaged(str(error)) from None


def _fields(identity: Identity | None) -> tuple[int, ...]:
    """As `struct spidl_file_identity`: times in seconds and nanoseconds, modulo 2^64."""
    if identity is None:
        return (0,) * 7
    device, inode, size, mtime, ctime = identity
    times = (*divmod(mtime, _BILLION), *divmod(ctime, _BILLION))
    return (device, inode, size, *(time & _WORD for time in times))


def _identity(fields: Sequence[int]) -> Identity:
    device, inode, size, *times = fields
    seconds, more, seconds_c, more_c = (t - (1 << 64) if t >> 63 else t for t in times)
    return device, inode, size, seconds * _BILLION + more, seconds_c * _BILLION + more_c
