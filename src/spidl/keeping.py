"""Links that are kept: made once, for the launcher to find."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

from spidl.cache.entry import Input, Kept, Mark
from spidl.cache.host import own_inputs
from spidl.cache.identity import Identity, identity, unsteady_devices
from spidl.cache.store import Entry, Store, first_change
from spidl.diagnostics import LinkError, Place, Refusal, fault
from spidl.launch import AGAIN, Selected, python_words
from spidl.session import Request, image_of, make_link, option_words, selected

if TYPE_CHECKING:
    from spidl.link.actions import FileIdentity
    from spidl.link.link import Link
    from spidl.targets.exec.table import Front

_TICK = 20_000_000
"""Nanoseconds: two ticks of the kernel's slowest clock for file times."""
_TRIES = 4
_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


def kept_link(request: Request, but: str = "") -> Entry:
    """The kept link of a request, made now if there is none that is valid.

    ``but`` is the checksum of an entry that did not fit a start: that one is made again.  A link
    that fails is kept too, so that it is not tried again before something has changed.

    Raises `LinkError`; ``cache/...`` where nothing can be kept.
    """
    choice = selected(request)
    store = Store(choice.cache)
    own_inputs()  # before the entry is looked at: they may say that this is another Spidl
    with store.lock(choice.key):
        entry = store.find(choice.key)
        if entry is not None and entry.sum != but and not entry.is_error:
            return entry
        kept, content, error = _link(request, choice, store)
        if error is not None and error.code.startswith("adopt/no-"):
            # What a sandbox forbids may be allowed the next time: that is not kept.
            store.note_failure()
            entry = Entry(None, kept)
        else:
            try:
                entry = store.keep(choice.key, kept, content)
            except LinkError:
                store.note_failure()
                raise
    if error is not None and not isinstance(error, Refusal):
        raise error
    return entry


def _link(
    request: Request, choice: Selected, store: Store
) -> tuple[Kept, bytearray | None, LinkError | None]:
    """A link whose inputs were at rest meanwhile.  Raises `LinkError` ``cache/unsteady``."""
    for _ in range(_TRIES):
        began = time.time_ns()
        kept, content, error = _link_once(request, choice, store)
        if not _is_racy(kept, began) and first_change(kept) is None:
            return kept, content, error
        time.sleep(_TICK / 10**9)
    raise LinkError(
        "cache/unsteady",
        "the files change while they are linked",
        place=Place(request.program),
        help="link it again when they are at rest",
    )


def _link_once(
    request: Request, choice: Selected, store: Store
) -> tuple[Kept, bytearray | None, LinkError | None]:
    """A link as it is kept: with an image, or with the reason why there is none."""
    link = make_link(request)
    policy = any(module.policy for module in link.modules)
    content, error = None, None
    # A file that is refused at first sight never becomes an input of the link itself.
    inputs = _identities(request.program)
    try:
        content = image_of(link, request, _front(choice, store, policy=policy))
        _refuse_unsteady(link)
    except LinkError as caught:
        content, error = None, caught
    except Exception as caught:
        if os.environ.get("SPIDL_TRACEBACK"):
            raise
        error = fault(caught)
    if error is not None and error.diagnostic.place is not None:
        inputs |= _identities(error.diagnostic.place.file)
    inputs |= {path: _stamp(identity) for path, identity in link.inputs.items()}
    own = [Input(path, found, front=True) for path, found in _module_files(link).items()]
    config = request.config or choice.config
    if config:
        own.append(Input(os.path.abspath(config), identity(config), front=True))
    marks = Mark.POLICY if policy else Mark(0)
    message = ""
    if error is not None:
        severity = error.diagnostic.severity.value
        message = f"{severity}[{error.code}]: {error.diagnostic.message}"
        marks |= Mark(0) if isinstance(error, Refusal) else Mark.ERROR
    return (
        Kept(
            key=choice.key.text,
            words=tuple(_words(request, choice)),
            inputs=(
                *own,
                *(Input(path, found) for path, found in inputs.items()),
                *(Input(os.path.join("/", path), None) for path in link.absent),
            ),
            image=os.path.basename(request.program),
            message=message,
            marks=marks,
        ),
        content,
        error,
    )


def _refuse_unsteady(link: Link) -> None:
    """An identity tells nothing where another file system can take the place of this one."""
    devices = {identity.device for identity in link.inputs.values()}
    unsteady = unsteady_devices(devices)
    for path, found in link.inputs.items():
        if found.device in unsteady:
            raise Refusal(
                "cache/no-identity",
                f"{path} is on a file system that is an image: another may take its place unseen",
                place=Place(path),
                help="it starts under the system's linker; `spidl build` makes an image of it",
            )


def _words(request: Request, choice: Selected) -> list[str]:
    """The request as the launcher reads it again (launcher/request.c)."""
    config = choice.config or ""
    return [
        f"P{choice.program}", f"C{choice.cache}", *([f"F{config}"] if config else []),
        *(f"I{word}" for word in python_words()), *(f"O{word}" for word in option_words(request)),
    ]  # fmt: skip


def _front(choice: Selected, store: Store, *, policy: bool) -> Front | None:
    from spidl.targets.exec.table import Front

    place = store.place(choice.key)
    if "\n" in place:  # it ends at the first newline
        return None
    entry = f"{'P' if policy else '-'}{place}\n{choice.program}"
    return Front(os.fsencode(AGAIN), os.fsencode(entry))


def _is_racy(kept: Kept, began: int) -> bool:
    """Whether an input could change once more and keep its times: the kernel's clock has ticks."""
    now = time.time_ns()
    changes = [i.identity[4] for i in kept.inputs if i.identity is not None]
    return any(began - _TICK <= change <= now + _TICK for change in changes)


def _stamp(file: FileIdentity) -> Identity:
    times = (file.mtime[0] * 10**9 + file.mtime[1], file.ctime[0] * 10**9 + file.ctime[1])
    return file.device, file.inode, file.size, *times


def _module_files(link: Link) -> dict[str, Identity]:
    """Spidl's own files and those of the modules in use: one that was edited links again."""
    loaded = [sys.modules.get(type(module).__module__) for module in link.modules]
    files = [os.path.abspath(file) for m in loaded if (file := getattr(m, "__file__", None))]
    others = [file for file in files if not file.startswith(_PACKAGE)]
    return _identities(*own_inputs(), *others)


def _identities(*files: str) -> dict[str, Identity]:
    return {file: found for file in files if (found := identity(file)) is not None}
