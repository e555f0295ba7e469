"""Text for a terminal: tables, colours, and output that reaches its reader or fails aloud."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from spidl.diagnostics import LinkError, Place

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour: on a terminal that can, unless NO_COLOR (no-color.org) is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """``text`` in a colour if standard output is to be coloured."""
    return f"\x1b[{colour}m{text}\x1b[0m" if wants_colour(sys.stdout) else text


def plain(text: str) -> str:
    """Text out of a file, made harmless: a name must not move the cursor or break a line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def libraries(count: int) -> str:
    """``1 library``, ``2 libraries``."""
    return f"{count} {'library' if count == 1 else 'libraries'}"


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], numbers: str = "") -> list[str]:
    """Lines of a table: columns as wide as their content, two spaces apart.

    Columns whose heading is among the words of ``numbers`` are flushed right.
    """
    cells = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(heading, *cells, strict=True)]
    right = [name in numbers.split() for name in heading]

    def line(row: Sequence[str]) -> str:
        padded = (cell.rjust(width) if flush else cell.ljust(width)
                  for cell, width, flush in zip(row, widths, right, strict=True))  # fmt: skip
        return "  ".join(padded).rstrip()

    return [paint(line(heading), BOLD), *(line(row) for row in cells)]


def write(lines: Iterable[str]) -> None:
    """Print lines and flush, so that a failure is met here.

    Raises BrokenPipeError when the reader has left, `LinkError` ``cli/cannot-write`` otherwise.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        for line in lines:
            sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise LinkError(
            "cli/cannot-write",
            f"cannot write the output: {error.strerror}",
            place=Place("standard output"),
            help="check where the output goes: is there room?",
        ) from None


def write_json(value: object) -> None:
    """Print a value as JSON: one document, ASCII."""
    write([json.dumps(value, indent=1)])
