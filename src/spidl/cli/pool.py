"""Many links at a time, each in a process of its own.

The linker is imported once and each link forks from there: that costs 5 ms where a fresh Python
costs 150, nothing is left over from one link in the next, and a link that crashes takes no other
with it.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from spidl.cli.states import libraries_of
from spidl.diagnostics import Diagnostic, LinkError, Refusal, fault
from spidl.keeping import kept_link
from spidl.session import Request, make_link

LINKED, REFUSED, FAILED = "linked", "refused", "failed"
_PATIENCE = 5.0
"""Seconds in which an interrupted link must have cleaned up."""
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one link."""

    program: str
    state: str
    code: str | None = None
    """Of the error or refusal."""
    message: str | None = None
    seconds: float = 0.0
    libraries: int | None = None


@dataclass(slots=True)
class _Child:
    pid: int
    program: str
    pipe: int
    """Its answer, read to the end."""
    answer: bytes = b""


def link_all(
    requests: Sequence[Request], jobs: int, tell: Callable[[Sequence[str]], None]
) -> Iterator[Outcome]:
    """Link all, ``jobs`` at a time, and give each outcome as it comes.

    ``tell`` is called with the programs that are being linked whenever these change.  Where the
    iteration ends early, by Ctrl-C for instance, the running links are stopped and waited for.

    Raises `LinkError` where the modules themselves cannot be loaded.
    """
    if not requests:
        return
    _import_linker(requests[0])
    waiting = deque(requests)
    running: dict[int, _Child] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    child = _start(waiting.popleft())
                    running[child.pipe] = child
                    selector.register(child.pipe, selectors.EVENT_READ)
                tell([child.program for child in running.values()])
                for key, _ in selector.select():
                    child = running[key.fd]
                    piece = os.read(child.pipe, _PIECE)
                    child.answer += piece
                    if not piece:
                        selector.unregister(child.pipe)
                        yield _outcome(running.pop(key.fd))
        finally:
            _stop(list(running.values()))


def _import_linker(request: Request) -> None:
    """Everything that a link needs, and a look at whether there is a pipeline to link with."""
    make_link(request)
    import spidl.targets.exec.target
    import spidl.targets.exec.writer  # noqa: F401  (for the effect, as the one above)


def _start(request: Request) -> _Child:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = _work(request, writer)
        except KeyboardInterrupt:
            status = 130
        finally:
            os._exit(status)
    os.close(writer)
    # In both processes, whichever comes first: from now on Ctrl-C is for the parent to pass on.
    with suppress(OSError):
        os.setpgid(pid, pid)
    return _Child(pid, request.program, reader)


def _work(request: Request, writer: int) -> int:
    with suppress(OSError):
        os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2)[: 2 if os.environ.get("SPIDL_TRACEBACK") else 3]:
        os.dup2(null, descriptor)
    began = time.perf_counter()
    outcome = _link(request)
    answer = asdict(outcome) | {"seconds": time.perf_counter() - began}
    with suppress(BrokenPipeError), os.fdopen(writer, "wb") as file:
        file.write(json.dumps(answer).encode())
    return 0


def _link(request: Request) -> Outcome:
    try:
        entry = kept_link(request)
    except LinkError as error:
        state = REFUSED if isinstance(error, Refusal) else FAILED
        return Outcome(request.program, state, error.code, error.diagnostic.message)
    except Exception as error:
        if os.environ.get("SPIDL_TRACEBACK"):
            raise
        found = fault(error)
        return Outcome(request.program, FAILED, found.code, found.diagnostic.message)
    if entry.image is None:
        return refused(request.program, entry.kept.message)
    return Outcome(request.program, LINKED, libraries=len(libraries_of(entry.kept)))


def refused(program: str, message: str) -> Outcome:
    """A refusal that is kept, as ``refused[CODE]: TEXT``."""
    head, _, text = message.partition("]: ")
    return Outcome(program, REFUSED, head.partition("[")[2], text)


def _outcome(child: _Child) -> Outcome:
    os.close(child.pipe)
    _, status = os.waitpid(child.pid, 0)
    try:
        return Outcome(**json.loads(child.answer))
    except (ValueError, TypeError):
        code = os.waitstatus_to_exitcode(status)
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        crash = Diagnostic("internal/crash", f"the linking process ended {how}")
        return Outcome(child.program, FAILED, crash.code, crash.message)


def _stop(children: list[_Child]) -> None:
    """Interrupt what still runs, so that it cleans up after itself, and wait for it."""
    for child in children:
        os.close(child.pipe)
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGINT)
    deadline = time.monotonic() + _PATIENCE
    while children and time.monotonic() < deadline:
        children = [child for child in children if os.waitpid(child.pid, os.WNOHANG) == (0, 0)]
        time.sleep(0.01)
    for child in children:
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
