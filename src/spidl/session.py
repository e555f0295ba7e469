"""What run, build, explain, tree and bench share: from a command line to a link or an image."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spidl.cache.entry import Input, Kept, Mark
from spidl.cache.host import own_inputs
from spidl.cache.identity import Identity, identity
from spidl.cache.store import Entry, Store
from spidl.diagnostics import LinkError, Place, Refusal, fault
from spidl.launch import LAUNCHER, Selected, is_launcher, python_words, select

if TYPE_CHECKING:
    from spidl.link.actions import FileIdentity
    from spidl.link.link import Link
    from spidl.link.objects import ObjectStore
    from spidl.registry import Configuration
    from spidl.targets.exec.table import Front


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for: a program, how to link it."""

    program: str
    extra: tuple[str, ...] = ()
    layout: str = "shared"
    config: str | None = None
    settings: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    cache: str | None = None
    """The cache folder, where it is not the user's own."""
    user_config: str | None = None
    """What is read as the user's own spidl.toml, where that is another file."""


_TICK = 20_000_000
"""Nanoseconds: two ticks of the kernel's slowest clock for file times."""
_TRIES = 4


def find_program(name: str) -> str:
    """The absolute path of a program, looked for in PATH as a shell does.

    Raises `LinkError` ``collect/no-program``, ``collect/not-a-program``.
    """
    if not name:
        candidates = []
    elif "/" in name:
        candidates = [os.path.abspath(name)]
    else:
        folders = os.environ.get("PATH", os.defpath).split(":")
        candidates = [os.path.abspath(os.path.join(folder or ".", name)) for folder in folders]
    found: str | None = None
    for candidate in candidates:
        try:
            status = os.stat(candidate)
        except OSError:
            continue
        if is_launcher(candidate, status):
            continue  # an enabled program's name: what it stands for comes later in PATH
        if stat.S_ISREG(status.st_mode) and os.access(candidate, os.X_OK):
            return candidate
        found = found or candidate
    if found is None:
        raise LinkError(
            "collect/no-program",
            f"there is no program `{name}`",
            place=Place(name),
            notes=() if "/" in name else ("searched: PATH",),
            help="check the spelling, or give its path",
        )
    what = "a folder" if os.path.isdir(found) else "no file that you may execute"
    raise LinkError(
        "collect/not-a-program",
        f"`{found}` is {what}",
        place=Place(found),
        help="give the path of an executable file (chmod +x makes one)",
    )


def _import_numpy() -> None:
    """Import numpy without the threads of its linear algebra, which nothing here uses.

    They take 20 ms to start, and a process that forks or is traced is better off without them.
    """
    if "numpy" not in sys.modules and "OPENBLAS_NUM_THREADS" not in os.environ:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        try:
            import numpy  # noqa: F401  (for the effect)
        finally:
            del os.environ["OPENBLAS_NUM_THREADS"]


def make_link(request: Request) -> Link:
    """A link with its modules, ready to run its phases."""
    _import_numpy()
    from spidl.link.environment import Environment
    from spidl.link.link import Link
    from spidl.registry import load_modules

    configuration = configured(request)
    modules = load_modules(configuration, request.extra)
    environment = Environment(request.environment, _working_folder())
    return Link(request.program, modules, environment, store=_object_store(request))


def _object_store(request: Request) -> ObjectStore | None:
    """Where what is found out about single objects is kept, if there is such a place."""
    from spidl.cache.objects import Objects

    try:
        return Objects(Store(request.cache).folder)
    except LinkError:
        return None


def _working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody removed it
        return "/"


def configured(request: Request) -> Configuration:
    """The configuration with the command line's --set options laid over it."""
    from spidl.registry import Configuration, read_configuration

    configuration = read_configuration(request.config, request.user_config)
    settings = {name: dict(values) for name, values in configuration.settings.items()}
    for option in request.settings:
        name, equals, value = option.partition("=")
        module, dot, key = name.partition(".")
        if not (equals and dot and key):
            raise LinkError(
                "config/bad-option",
                f"--set {option} is not MODULE.KEY=VALUE",
                help="for instance --set hook.symbol=getenv",
            )
        import tomllib

        try:
            parsed = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            parsed = value
        settings.setdefault(module, {})[key] = parsed
    return Configuration(configuration.pipeline, settings, configuration.file)


def build(request: Request) -> tuple[bytearray, Link]:
    """Link and make the image's bytes.  Raises `LinkError`, `Refusal`."""
    link = make_link(request)
    return _image_of(link, request), link


def _image_of(link: Link, request: Request, front: Front | None = None) -> bytearray:
    from spidl.targets.exec.ahead import Ahead
    from spidl.targets.exec.target import Layout, build_image
    from spidl.targets.exec.writer import encode_image

    with Ahead() as ahead:
        link.run(loaded=ahead.begin)
        return encode_image(build_image(link, Layout(request.layout)), front)


def option_words(request: Request) -> list[str]:
    """The options of a request as a command line has them."""
    words = [f"--layout={request.layout}"]
    words += [f"--config={request.config}"] if request.config else []
    words += [f"--with={module}" for module in request.extra]
    return words + [f"--set={setting}" for setting in request.settings]


def selected(request: Request) -> Selected:
    """What the launcher looks for when it is asked for this request; errors as `select`."""
    return select(
        request.program,
        option_words(request),
        cache=request.cache,
        config=request.user_config,
        environment=request.environment,
    )


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
        for _ in range(_TRIES):
            began = time.time_ns()
            kept, content, error = _link_once(request, choice, store)
            if not _is_racy(kept, began):
                break
            time.sleep(_TICK / 10**9)
        else:
            raise LinkError(
                "cache/unsteady",
                "the files change while they are linked",
                place=Place(request.program),
                help="link it again when they are at rest",
            )
        if error is None or not error.code.startswith("adopt/no-"):
            # What a sandbox forbids may be allowed the next time: that is not kept.
            entry = store.keep(choice.key, kept, content)
        else:
            entry = Entry(None, kept)
    if error is not None and not isinstance(error, Refusal):
        raise error
    return entry


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
        content = _image_of(link, request, _front(choice, store, policy=policy))
    except LinkError as caught:
        error = caught
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
    return Front(os.fsencode(LAUNCHER), os.fsencode(entry))


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
    return _identities(*own_inputs(), *files)


def _identities(*files: str) -> dict[str, Identity]:
    return {file: found for file in files if (found := identity(file)) is not None}


def policies(request: Request) -> Sequence[str]:
    """Names of the modules in use that enforce a policy."""
    from spidl.registry import load_modules

    return [m.name for m in load_modules(configured(request), request.extra) if m.policy]
