"""What run, build, explain, tree and bench share: from a command line to a link or an image."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spidl import __version__
from spidl.cache.host import own_files, processor
from spidl.cache.store import Entry, Identity, Store, identity, key_of
from spidl.diagnostics import LinkError, Place, Refusal

if TYPE_CHECKING:
    from spidl.link.link import Link
    from spidl.registry import Configuration


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for: a program, how to link it."""

    program: str
    extra: tuple[str, ...] = ()
    layout: str = "shared"
    config: str | None = None
    settings: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))


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
    return Link(request.program, modules, Environment(request.environment, _working_folder()))


def _working_folder() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # somebody removed it
        return "/"


def configured(request: Request) -> Configuration:
    """The configuration with the command line's --set options laid over it."""
    from spidl.registry import Configuration, read_configuration

    configuration = read_configuration(request.config)
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


def entry_key(request: Request) -> str:
    """Everything that selects a cached image, its inputs' content apart.

    The program by path; Spidl's own files; the modules and their settings, user files by identity;
    the environment variables that steer linking; the working folder where relative paths count; the
    kernel and the processor.
    """
    from spidl.link.environment import Environment

    environment = Environment(request.environment)
    steering = [f"{k}={v}" for k, v in environment.steering.items()]
    relative = any(
        not part.startswith("/")
        for name in ("LD_LIBRARY_PATH", "LD_PRELOAD")
        for part in environment.paths(name, ":; ")
    )
    config = request.config or os.path.join(
        os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"), "spidl", "spidl.toml"
    )
    files = [config, *(spec.partition(":")[0] for spec in request.extra if ".py" in spec)]
    machine = os.uname()
    return key_of([
        __version__, request.program, request.layout, *request.extra, *request.settings,
        *(f"{file}:{identity(file)}" for file in files), *steering,
        _working_folder() if relative else "", machine.release, machine.version, machine.machine,
        processor(), own_files(),
    ])  # fmt: skip


def build(request: Request) -> tuple[bytearray, Link]:
    """Link and make the image's bytes.  Raises `LinkError`, `Refusal`."""
    link = make_link(request)
    return _image_of(link, request), link


def _image_of(link: Link, request: Request) -> bytearray:
    from spidl.targets.exec.target import Layout, build_image
    from spidl.targets.exec.writer import encode_image

    link.run()
    return encode_image(build_image(link, Layout(request.layout)))


def cached_image(request: Request) -> Entry:
    """The kept image of a request, linked now if there is none that is valid.

    Raises `LinkError`; ``cache/...`` where an image cannot be kept.
    """
    store = Store()
    key = entry_key(request)
    entry = store.find(key)
    if entry is not None:
        return entry
    store.prepare()
    name = os.path.basename(request.program)
    link = make_link(request)
    # A file that is refused at first sight never becomes an input of the link itself.
    inputs = _identities(request.program) | _module_files(link)
    try:
        content = _image_of(link, request)
        refusal = None
    except Refusal as error:
        content, refusal = None, error.diagnostic.to_json()
        if error.code.startswith("adopt/no-"):
            return Entry(None, refusal)  # what a sandbox forbids may be allowed the next time
        if error.diagnostic.place is not None:
            inputs |= _identities(error.diagnostic.place.file)
    inputs |= {
        path: (i.device, i.inode, i.size, i.mtime[0] * 10**9 + i.mtime[1],
               i.ctime[0] * 10**9 + i.ctime[1])
        for path, i in link.inputs.items()
    }  # fmt: skip
    return store.keep(key, name, content, inputs=inputs, absent=link.absent, refusal=refusal)


def _module_files(link: Link) -> dict[str, Identity]:
    """The file of each module in use: one that was edited links again."""
    loaded = [sys.modules.get(type(module).__module__) for module in link.modules]
    files = [os.path.abspath(file) for m in loaded if (file := getattr(m, "__file__", None))]
    return _identities(*files)


def _identities(*files: str) -> dict[str, Identity]:
    return {file: found for file in files if (found := identity(file)) is not None}


def policies(request: Request) -> Sequence[str]:
    """Names of the modules in use that enforce a policy."""
    from spidl.registry import load_modules

    return [m.name for m in load_modules(configured(request), request.extra) if m.policy]
