"""Analysers for these tests, by name as a worker imports them."""

from __future__ import annotations

import os
import signal
import time

from spidl.analyse.summary import Class, Summary
from spidl.diagnostics import LinkError, Place
from spidl.distribution.files import identity
from spidl.elf import ElfFile

QUICK = "tests.distribution.analysers:quick"
TROUBLED = "tests.distribution.analysers:troubled"
SLOW = "tests.distribution.analysers:slow"


def quick(file: ElfFile) -> Summary:
    """One class with one system call, its number the length of the soname."""
    soname = file.soname or ""
    only = Class(frozenset({len(soname)}), frozenset())
    return Summary(identity(file), soname, file.needed, (), (only,), 0, None, {}, {})


def troubled(file: ElfFile) -> Summary:
    """As `quick`, but some sonames do to it what damaged files might do."""
    if file.soname == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if file.soname == "hang":
        time.sleep(3600)
    if file.soname == "fault":
        raise ValueError("a mistake")
    if file.soname == "error":
        raise LinkError("parse/truncated", "it ends too early", place=Place("error"))
    return quick(file)


def slow(file: ElfFile) -> Summary:
    """As `quick`, but slow enough to be killed in the middle."""
    time.sleep(0.05)
    return quick(file)
