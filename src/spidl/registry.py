"""From names and settings to modules: entry points, files, spidl.toml.

Installed does not mean enabled: only what the user's list names is loaded.
"""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import inspect
import os
import stat
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType
from typing import TYPE_CHECKING, Any

from spidl.diagnostics import LinkError, Place
from spidl.link.module import Module

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "spidl.modules"
DEFAULT_PIPELINE = ("preload", "sysv", "gnu", "musl")
_OWN = {
    "preload": ("spidl.modules.preload", "Preload"),
    "sysv": ("spidl.modules.sysv", "SystemV"),
    "gnu": ("spidl.modules.gnu", "Gnu"),
    "musl": ("spidl.modules.musl", "Musl"),
    "seccomp": ("spidl.modules.seccomp", "Seccomp"),
    "authorise": ("spidl.modules.authorise", "Authorise"),
    "hook": ("spidl.modules.hook", "Hook"),
    "trace": ("spidl.modules.trace", "Trace"),
    "capsule": ("spidl.modules.capsule", "Capsules"),
}
"""Spidl's own entry points again: a link with these alone need not read (for 25 ms) what packages
are installed."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """The modules in their order, and their settings by module name."""

    pipeline: tuple[str, ...] = DEFAULT_PIPELINE
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    file: str | None = None


def _refuse_foreign(path: str) -> None:
    """Nobody's modules run with this user's rights but those of the user, and of root."""
    status = os.stat(path)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
        raise LinkError(
            "config/not-private",
            "these settings belong to another user, or everybody may write to them",
            place=Place(path),
            help="chmod o-w them if they are yours; HOME should be the user's own (sudo -H)",
        )


def read_configuration(path: str | None, own: str | None = None) -> Configuration:
    """spidl.toml at ``path``, else the user's (``own`` if it is elsewhere), else the defaults.

    Raises `LinkError` ``config/...``.
    """
    chosen = path
    if chosen is None:
        home = os.path.join(os.environ.get("HOME", ""), ".config")
        base = os.environ.get("XDG_CONFIG_HOME") or home
        chosen = own or os.path.join(base, "spidl", "spidl.toml")
        # A relative base is none (XDG Base Directory Specification).
        if not os.path.isabs(chosen) or not os.path.isfile(chosen):
            return Configuration()
        _refuse_foreign(chosen)
    import tomllib

    try:
        with open(chosen, "rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise LinkError(
            "config/unreadable",
            f"cannot read the settings: {error.strerror}",
            place=Place(chosen),
            help="give --config the path of a spidl.toml",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LinkError(
            "config/not-toml", f"not a TOML file: {error}", place=Place(chosen),
            help="see docs/configuration.md for its form",
        ) from None  # fmt: skip
    unknown = sorted(set(content) - {"pipeline", "modules"})
    if unknown:
        raise LinkError(
            "config/unknown-key",
            f"unknown setting `{unknown[0]}`",
            place=Place(chosen),
            help="known are: pipeline, [modules.NAME]",
        )
    pipeline = content.get("pipeline", list(DEFAULT_PIPELINE))
    settings = content.get("modules", {})
    if not isinstance(pipeline, list) or not all(isinstance(name, str) for name in pipeline):
        raise _wrong(chosen, "pipeline", "a list of module names")
    if not isinstance(settings, dict) or not all(isinstance(v, dict) for v in settings.values()):
        raise _wrong(chosen, "modules", "tables, one a module")
    # A module file is named relative to the settings, wherever the user stands.
    folder = os.path.dirname(os.path.abspath(chosen))
    names = (
        os.path.join(folder, name) if name.partition(":")[0].endswith(".py") else name
        for name in pipeline
    )
    return Configuration(tuple(names), settings, chosen)


def _wrong(file: str | None, key: str, expected: str) -> LinkError:
    return LinkError(
        "config/wrong-type", f"`{key}` must be {expected}", place=Place(file or "command line"),
        help="see docs/configuration.md",
    )  # fmt: skip


def available() -> dict[str, EntryPoint]:
    """Installed modules by name."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def load_modules(configuration: Configuration, extra: Sequence[str] = ()) -> list[Module]:
    """Instances in order: the configured pipeline, then ``extra`` (names, or FILE.py[:CLASS]).

    Raises `LinkError` ``register/...`` and ``config/...``.
    """
    modules: list[Module] = []
    for spec in (*configuration.pipeline, *extra):
        kind = _class_of(spec)
        modules.append(_instance(kind, configuration.settings.get(kind.name, {}),
                                 configuration.file))  # fmt: skip
    known = {module.name for module in modules}
    for name in configuration.settings:
        if name not in known:
            raise LinkError(
                "config/unknown-module",
                f"settings for `{name}`, which is not in the pipeline",
                place=Place(configuration.file or "command line"),
                notes=(f"the pipeline is: {', '.join(m.name for m in modules)}",),
                help=f"add `{name}` to the pipeline or remove its settings",
            )
    return modules


def _class_of(spec: str) -> type[Module]:
    path, _, chosen = spec.partition(":")
    if path.endswith(".py"):
        return _class_in_file(path, chosen)
    if spec in _OWN:
        file, name = _OWN[spec]
        own: type[Module] = getattr(importlib.import_module(file), name)
        return own
    point = available().get(spec)
    if point is None:
        raise LinkError(
            "register/unknown-module",
            f"no module is called `{spec}`",
            notes=(f"installed are: {', '.join(sorted(available()))}",),
            help="see `spidl modules`, or give the path of a file: --with ./mine.py",
        )
    try:
        kind = point.load()
    except Exception as error:
        raise _broken(spec, error) from error
    if not (isinstance(kind, type) and issubclass(kind, Module)):
        raise _broken(spec, TypeError(f"{point.value} is not a spidl.api.Module"))
    return kind


class _FromSource(importlib.machinery.SourceFileLoader):
    """Compiles each time: a .pyc is taken for the file's own if an edit keeps size and second."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _class_in_file(path: str, chosen: str) -> type[Module]:
    if not os.path.isfile(path):
        raise LinkError(
            "register/no-file", "there is no such module file", place=Place(path),
            help="give the path of a Python file that defines a spidl.api.Module",
        )  # fmt: skip
    name = os.path.basename(path).removesuffix(".py").replace("-", "_")
    loader = _FromSource(f"spidl_user_{name}", path)
    specification = importlib.util.spec_from_loader(loader.name, loader)
    assert specification is not None, "it has a loader"
    loaded = importlib.util.module_from_spec(specification)
    sys.modules[loaded.__name__] = loaded  # where dataclasses and type hints look for names
    try:
        loader.exec_module(loaded)
    except (Exception, SystemExit) as error:
        del sys.modules[loaded.__name__]
        raise _broken(path, error) from error
    kinds = [
        kind
        for _, kind in inspect.getmembers(loaded, inspect.isclass)
        if issubclass(kind, Module) and kind.__module__ == loaded.__name__
        and chosen in ("", kind.__name__)
    ]  # fmt: skip
    if len(kinds) != 1:
        raise LinkError(
            "register/no-class",
            f"{len(kinds)} classes fit, one is wanted",
            place=Place(path),
            notes=tuple(kind.__name__ for kind in kinds),
            help="name it: --with FILE.py:CLASS",
        )
    return kinds[0]


def _broken(spec: str, error: BaseException) -> LinkError:
    return LinkError(
        "register/broken-module",
        f"module `{spec}` cannot be loaded: {type(error).__name__}: {error}",
        help="this is a fault of the module; leave it out to go on without it",
    )


def _instance(kind: type[Module], settings: Mapping[str, Any], file: str | None) -> Module:
    """A module with its settings checked against its typed fields."""
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]  # Module's job
    hints = typing.get_type_hints(kind)
    for key, value in settings.items():
        if key not in fields:
            raise LinkError(
                "config/unknown-key",
                f"module `{kind.name}` has no setting `{key}`",
                place=Place(file or "command line", f"modules.{kind.name}"),
                help=f"known are: {', '.join(fields) or 'none'}",
            )
        if not _fits(value, hints[key]):
            expected = str(getattr(hints[key], "__name__", hints[key]))
            raise _wrong(file, f"modules.{kind.name}.{key}", expected)
    missing = [
        f.name for f in fields.values()
        if f.name not in settings and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]  # fmt: skip
    if missing:
        raise LinkError(
            "config/missing-setting",
            f"module `{kind.name}` needs the setting `{missing[0]}`",
            place=Place(file or "command line", f"modules.{kind.name}"),
            help=f"give it in spidl.toml, or as --set {kind.name}.{missing[0]}=VALUE",
        )
    return kind(**settings)


def _fits(value: object, hint: object) -> bool:
    """Whether a TOML value is of an annotated type: str, int, bool, float, list[...], dict[...]."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (list, tuple):
        return isinstance(value, list) and all(_fits(v, arguments[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(v, arguments[1]) for v in value.values())
    if arguments:  # a union
        return any(_fits(value, option) for option in arguments)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)
