"""What run, build, explain, tree and bench share: from a command line to a link or an image."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spidl.cache.store import Store
from spidl.diagnostics import LinkError, Place
from spidl.launch import Selected, is_launcher, select

if TYPE_CHECKING:
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


def _absolute(path: str) -> str:
    """As launcher/world.c: ``..`` stays, for behind a symbolic link only the kernel knows it."""
    parts = os.path.join(working_folder(), path).split("/")
    return "/" + "/".join(part for part in parts if part not in ("", "."))


def find_program(name: str) -> str:
    """The absolute path of a program, looked for in PATH as a shell does.

    Raises `LinkError` ``collect/no-program``, ``collect/not-a-program``.
    """
    if not name:
        candidates = []
    elif "/" in name:
        candidates = [_absolute(name)]
    else:
        folders = os.environ.get("PATH", os.defpath).split(":")
        candidates = [_absolute(os.path.join(folder or ".", name)) for folder in folders]
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
    environment = Environment(request.environment, working_folder())
    return Link(request.program, modules, environment, store=_object_store(request))


def _object_store(request: Request) -> ObjectStore | None:
    """Where what is found out about single objects is kept, if there is such a place."""
    from spidl.cache.objects import Objects

    try:
        return Objects(Store(request.cache).folder)
    except LinkError:
        return None


def working_folder() -> str:
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
        values = settings.setdefault(module, {})
        if key.endswith("+"):
            key = key[:-1]
            parsed = [*values.get(key, []), *(parsed if isinstance(parsed, list) else [parsed])]
        values[key] = parsed
    return Configuration(configuration.pipeline, settings, configuration.file)


def build(request: Request) -> tuple[bytearray, Link]:
    """Link and make the image's bytes.  Raises `LinkError`, `Refusal`."""
    link = make_link(request)
    return image_of(link, request), link


def image_of(link: Link, request: Request, front: Front | None = None) -> bytearray:
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


def policies(request: Request) -> Sequence[str]:
    """Names of the modules in use that enforce a policy."""
    from spidl.registry import load_modules

    return [m.name for m in load_modules(configured(request), request.extra) if m.policy]
