"""A second opinion: does a program start that Spidl could not link?

What starts without Spidl must start with it.  Where our own link fails, the system's linker is
asked (in its tracing mode, which runs nothing of the program but IFUNC resolvers); if it finds no
fault, the fault is ours.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess

from spidl.diagnostics import LinkError
from spidl.registry import DEFAULT_PIPELINE
from spidl.session import Request, configured

_OWN_PHASES = ("adopt", "exec", "internal", "link", "load", "module", "start")
"""Phases whose errors are about our own work, not about the files."""
_FINAL = ("parse/bad-segment", "parse/not-elf", "start/exec", "start/no-image", "start/policy")
"""A segment that cannot be mapped is damage, though ld.so does not look for it and crashes."""
_FINAL_PHASES = ("cli", "config", "register")
_FOUND = re.compile(rb"\s.*\(0x[0-9a-f]+\)|\s*statically linked")
"""A line of the tracing mode about an object that is there."""
_FAULT = re.compile(rb"undefined symbol|symbol lookup|error while loading|not found|unexpected")
_SECONDS = 20
_GLIBC = "ld-linux-x86-64.so.2"
_PT_INTERP, _X86_64 = 3, b"\x3e\0"


def starts_plainly(request: Request, error: LinkError) -> bool:
    """Whether the system's linker would start ``request.program`` all the same.

    Never where the user asked for something that only Spidl does: a module's error is final.
    """
    phase = error.code.partition("/")[0]
    if phase in _FINAL_PHASES or error.code in _FINAL:
        return False
    if request.extra or configured(request).pipeline != DEFAULT_PIPELINE:
        return False
    place = error.diagnostic.place
    if error.code == "parse/no-permission" and place is not None and place.file == request.program:
        return True  # a program that one may execute, but not read
    interpreter = interpreter_of(request.program)
    if interpreter is not None and os.path.basename(interpreter) == _GLIBC:
        return _finds_no_fault(interpreter, request)
    return phase in _OWN_PHASES


def interpreter_of(program: str) -> str | None:
    """PT_INTERP of a program for x86-64, read without trust in anything else of the file."""
    try:
        with open(program, "rb") as file:
            head = file.read(64)
            if head[:6] != b"\x7fELF\x02\x01" or head[18:20] != _X86_64:
                return None
            (phoff,) = struct.unpack_from("<Q", head, 32)
            size, count = struct.unpack_from("<HH", head, 54)
            for index in range(count):
                file.seek(phoff + index * size)
                kind, _, offset, _, _, length = struct.unpack("<IIQQQQ", file.read(40))
                if kind == _PT_INTERP:
                    file.seek(offset)
                    return os.fsdecode(file.read(min(length, 4096)).rstrip(b"\0"))
    except (OSError, ValueError, OverflowError, struct.error):
        pass
    return None


def _finds_no_fault(interpreter: str, request: Request) -> bool:
    """What `ldd -d` looks at: every library, version and symbol that must be there at start.

    The linker is started itself, not the program: a set-user-ID program would ignore the request
    and run.
    """
    environment = {**request.environment, "LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "1"}
    try:
        done = subprocess.run(
            [interpreter, request.program],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return False
    found = all(map(_FOUND.fullmatch, done.stdout.splitlines()))
    return done.returncode == 0 and found and not _FAULT.search(done.stderr)
