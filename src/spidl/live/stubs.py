"""The addresses that private libraries have for dlopen and its kin: a few instructions each.

What needs the namespace is answered in Python (`spidl.live.opening`); the rest goes on to glibc's
own function at once, without Python: handles are glibc's, so dlerror, dladdr and most uses of dlsym
and dlinfo need nothing of ours.

Python cannot be entered when the interpreter ends, nor in a child that some C code forked, where
the thread that holds its lock may not exist.  There the instructions let glibc's own function fail,
so that dlerror has a text.  Nor must it be waited for in a destructor, where glibc's lock is held:
dlclose is glibc's own there, and is noted for later.

A *stub* is one function for one caller, which is a library in a namespace, and puts the caller's
number into %eax.  Stubs live as long as the process, as the functions that they stand for do.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from spidl.diagnostics import LinkError
from spidl.link.actions import Protection
from spidl.live import process

NAMES = ("dlopen", "dlmopen", "dlclose", "dlsym", "dlvsym", "dlinfo")
"""The functions that have stubs."""
_STUB, _PAGE = 16, 4096
_PER_BLOCK = 128
_CALLERS = 1 << 16
"""Callers that a process can have."""
_ENDS, _PROCESS, _ENTERED, _TEXT, _CLOSER, _NOTED, _FUNCTIONS = 0, 8, 16, 24, 32, 40, 48
"""Offsets of the words that all stubs look at: whether Python ends, the process's number, calls
that have gone to Python, what a call that cannot is told, the thread that runs destructors, how
many handles it has closed, and a pair for each function: Python's side and glibc's own.  The last
of those handles follow, and in the next pages each caller's handle of its own namespace."""
_NOTES, _NOTE_COUNT = 2048, 256
_REFUSED = b"spidl.live/no library can be opened where Python ends or in a child that C forked"
_WAIT = 5.0
"""Seconds for which the end of Python waits for calls that are under way."""
_RTLD_NOW = 2
_RTLD_DI_LMID, _RTLD_DI_ORIGIN = 1, 6

Answer = Callable[[int | None, int | None, int | None, int], int | None]
"""A function's side in Python: three arguments and the caller's number."""
_Callback = ctypes.CFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32
)


class Stubs:
    """All stubs of the process, once somebody needs one."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._data = process.map_anywhere(_PAGE + 8 * _CALLERS)
        self._left = 0
        """Calls that have come back from Python."""
        self._seen = 0
        """Closed handles that `noted` has told."""
        self._text = ctypes.create_string_buffer(_REFUSED)
        self._put(_PROCESS, os.getpid())
        self._put(_TEXT, ctypes.addressof(self._text))
        self._callbacks = [_Callback(self._counted(answers[name])) for name in NAMES]
        for number, (name, callback) in enumerate(zip(NAMES, self._callbacks, strict=True)):
            at = _FUNCTIONS + 16 * number
            self._put(at, ctypes.cast(callback, ctypes.c_void_p).value or 0)
            self._put(at + 8, process.address_of(name))
        self._numbers = itertools.count()
        self._free: list[int] = []
        self._blocks: list[int] = []
        os.register_at_fork(after_in_child=self._forked)
        atexit.register(self._end)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))  # destructors run after Python has ended

    def new_caller(self) -> int:
        """A number for a caller.  Raises `LinkError` ``live/no-memory``, ``live/mapping``."""
        if self._free:
            return self._free.pop()
        number = next(self._numbers)
        if number >= _CALLERS:
            raise LinkError(
                "live/no-memory",
                f"{_CALLERS} libraries open others already",
                help="unload other libraries",
            )
        if number % _PER_BLOCK == 0:
            self._blocks.append(self._block(number))
        return number

    def forget(self, caller: int) -> None:
        """Give a caller's number to the next one."""
        self.tell_handle(caller, 0)
        self._free.append(caller)

    def tell_handle(self, caller: int, handle: int) -> None:
        """The handle of a caller's own namespace, which glibc does not know as such."""
        self._put(_PAGE + 8 * caller, handle)

    def addresses(self, caller: int) -> dict[str, int]:
        """A caller's stubs by name."""
        block, place = divmod(caller, _PER_BLOCK)
        start = self._blocks[block] + _STUB * len(NAMES) * place
        return {name: start + _STUB * number for number, name in enumerate(NAMES)}

    @contextmanager
    def closing(self) -> Iterator[None]:
        """While this thread closes something: what destructors close is noted.

        Only one thread at a time.
        """
        before = process.read_word(self._data + _CLOSER)
        self._put(_CLOSER, process.thread_pointer())
        try:
            yield
        finally:
            self._put(_CLOSER, before)

    def noted(self) -> list[int]:
        """The handles that destructors have closed since this was asked."""
        end = process.read_word(self._data + _NOTED)
        found = [
            process.read_word(self._data + _NOTES + 8 * (number % _NOTE_COUNT))
            for number in range(max(self._seen, end - _NOTE_COUNT), end)
        ]
        self._seen = end
        return found

    def _put(self, offset: int, value: int) -> None:
        process.write_word(self._data + offset, value)

    def _counted(self, answer: Answer) -> Answer:
        def call(a: int | None, b: int | None, c: int | None, caller: int) -> int | None:
            try:
                return answer(a, b, c, caller)
            finally:
                self._left += 1

        return call

    def _forked(self) -> None:
        self._put(_PROCESS, os.getpid())
        self._put(_ENTERED, self._left)

    def _end(self) -> None:
        """No call enters Python from now on; those that have are waited for."""
        self._put(_ENDS, 1)
        until = time.monotonic() + _WAIT
        while process.read_word(self._data + _ENTERED) > self._left and time.monotonic() < until:
            time.sleep(0.001)

    def _block(self, first: int) -> int:
        """The stubs of some callers: their pages are writable first and executable afterwards."""
        size = -(-_PER_BLOCK * len(NAMES) * _STUB // _PAGE) * _PAGE + _PAGE
        start = process.map_anywhere(size)
        code = bytearray(size)
        common = size - _PAGE
        for number, name in enumerate(NAMES):
            body = _common(name, self._data, _FUNCTIONS + 16 * number)
            code[common : common + len(body)] = body
            for place in range(_PER_BLOCK):
                at = _STUB * (len(NAMES) * place + number)
                jump = common - (at + 14)
                # endbr64; mov $caller, %eax; jmp common
                stub = b"\xf3\x0f\x1e\xfa\xb8" + struct.pack("<I", first + place)
                code[at : at + 14] = stub + b"\xe9" + struct.pack("<i", jump)
            common += -(-len(body) // _STUB) * _STUB
        ctypes.memmove(start, bytes(code), size)
        process.protect(start, size, Protection.READ | Protection.EXEC)
        return start


def _common(name: str, data: int, pair: int) -> bytes:
    """What all stubs of a function go on with.

    The arguments stay where they are; %rcx, %r11 and %rax belong to no one across a call and no
    function here has a fourth argument (psABI 3.2.3), and a system call changes no other (A.2.1).
    """
    code = bytearray(b"\x49\xbb" + struct.pack("<Q", data))  # mov $data, %r11
    to_own = bytes.fromhex("41ffa3") + struct.pack("<I", pair + 8)  # jmp *own(%r11)
    if name in ("dlsym", "dlvsym"):
        tests: tuple[bytes, ...] = (
            bytes.fromhex("4885ff"),  # test %rdi, %rdi: RTLD_DEFAULT
            bytes.fromhex("4883ffff"),  # cmp $-1, %rdi: RTLD_NEXT
            bytes.fromhex("493bbcc3") + struct.pack("<I", _PAGE),  # cmp handle(%r11,%rax,8), %rdi
            bytes.fromhex("66813e") + b"dl",  # cmpw "dl", (%rsi): a name that may have a stub
        )
        code += _unless(tests, to_own)
    elif name == "dlinfo":
        tests = tuple(bytes((0x83, 0xFE, what)) for what in (_RTLD_DI_LMID, _RTLD_DI_ORIGIN))
        code += _unless(tests, to_own)
    elif name == "dlclose":
        note = bytes.fromhex("b901000000 f0490fc14b") + bytes((_NOTED,))  # lock xadd %rcx, noted
        note += b"\x81\xe1" + struct.pack("<I", _NOTE_COUNT - 1)  # and $255, %ecx
        note += bytes.fromhex("4989bccb") + struct.pack("<I", _NOTES)  # mov %rdi, (notes, %rcx, 8)
        note += to_own
        # mov %fs:0, %rcx; cmp %rcx, closer(%r11); jne over it
        code += (
            bytes.fromhex("64488b0c2500000000 49394b") + bytes((_CLOSER, 0x75, len(note))) + note
        )
    if name in ("dlinfo", "dlclose"):
        refuse = to_own
    elif name in ("dlsym", "dlvsym"):
        # xor %edi, %edi; mov text(%r11), %rsi; jmp *dlsym(%r11)
        refuse = bytes.fromhex("31ff 498b73") + bytes((_TEXT,)) + _own("dlsym")
    else:
        # mov text(%r11), %rdi; mov $RTLD_NOW, %esi; jmp *dlopen(%r11)
        refuse = bytes.fromhex("498b7b") + bytes((_TEXT,))
        refuse += b"\xbe" + struct.pack("<I", _RTLD_NOW) + _own("dlopen")
    refuse = bytes.fromhex("f049ff4b") + bytes((_ENTERED,)) + refuse  # lock decq entered(%r11)
    enter = b"\x89\xc1" + bytes.fromhex("41ffa3") + struct.pack("<I", pair)  # mov %eax, %ecx; jmp
    code += bytes.fromhex("f049ff43") + bytes((_ENTERED,))  # lock incq entered(%r11)
    same = bytes.fromhex("50 b827000000 0f05")  # push %rax; mov $SYS_getpid, %eax; syscall
    same += b"\x49\xbb" + struct.pack("<Q", data)
    same += bytes.fromhex("413b43") + bytes((_PROCESS,)) + b"\x58"  # cmp process(%r11), %eax; pop
    same += b"\x75" + bytes((len(enter),)) + enter  # jne over it
    code += bytes.fromhex("41833b00")  # cmpl $0, ends(%r11)
    code += b"\x75" + bytes((len(same),)) + same  # jne over it
    return bytes(code + refuse)


def _own(name: str) -> bytes:
    """A jump to glibc's own function."""
    return bytes.fromhex("41ffa3") + struct.pack("<I", _FUNCTIONS + 16 * NAMES.index(name) + 8)


def _unless(tests: tuple[bytes, ...], other: bytes) -> bytes:
    """Do ``other`` unless one of the comparisons finds equality."""
    code = other
    for test in reversed(tests):
        code = test + b"\x74" + bytes((len(code),)) + code  # je over the rest
    return code


answers: dict[str, Answer] = {}
"""Python's side of each function; `spidl.live.opening` brings it."""


_made: list[Stubs] = []


def stubs() -> Stubs:
    """The process's own."""
    if not _made:
        _made.append(Stubs(answers))
    return _made[0]


def closing() -> AbstractContextManager[None]:
    """As `Stubs.closing`, where there are stubs."""
    return _made[0].closing() if _made else nullcontext()


def noted() -> list[int]:
    """As `Stubs.noted`, where there are stubs."""
    return _made[0].noted() if _made else []
