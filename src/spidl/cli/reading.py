"""Links that are only looked at: explain and tree.  No code of the program runs."""

from __future__ import annotations

import argparse

from spidl.link.link import Link
from spidl.link.space import AddressSpace
from spidl.session import Request, find_program, make_link

BASE = 0x100_0000_0000
"""Where explain places objects.  A real link takes a fresh random base; fixed here, the addresses
of one explanation can be asked about in the next."""


def request_of(options: argparse.Namespace) -> Request:
    """The link that the command line asks for."""
    return Request(
        find_program(options.program), tuple(options.extra), config=options.config,
        settings=tuple(options.settings),
    )  # fmt: skip


def read_link(options: argparse.Namespace) -> Link:
    """A link through collect, load, relocate and protect, at fixed addresses.

    Start passes and targets are left out: they look at processes, not at files.

    Raises `LinkError`.
    """
    link = make_link(request_of(options))
    link.space = AddressSpace(BASE)
    link.collect()
    link.load()
    link.relocate()
    link.protect()
    return link
