"""``spidl modules``: what is installed, what it handles, and the pipeline in use."""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
import textwrap
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint

from spidl.cli.tables import BOLD, paint, table, write, write_json
from spidl.diagnostics import LinkError
from spidl.link.module import Module
from spidl.link.phases import Phase, PostPhase
from spidl.registry import Configuration, available, load_modules, read_configuration

_ROLES = {"finder": "finds libraries", "exports": "exports symbols", "resolver": "answers symbols"}


@dataclass(frozen=True, slots=True)
class Installed:
    """One module: where it comes from, what it says about itself."""

    name: str
    summary: str
    value: str
    """The entry point, or the file."""
    distribution: str | None
    position: int | None
    """Place in the pipeline from 1, None if it is not enabled."""
    weak: tuple[str, ...]
    main: tuple[str, ...]
    """Phases that it adds a pass to, and those whose main pass it claims."""
    roles: tuple[str, ...]
    after: tuple[str, ...]
    policy: bool
    error: str | None


def modules(options: argparse.Namespace) -> int:
    """List the installed modules; a pipeline that cannot be made is an error after the list."""
    configuration = read_configuration(options.config)
    failure: LinkError | None = None
    loaded: list[Module] = []
    try:
        loaded = load_modules(configuration)
    except LinkError as error:
        failure = error
    found = [_installed(name, point, configuration) for name, point in available().items()]
    found += [
        _described(module.name, type(module), spec, None, i + 1)
        for i, (spec, module) in enumerate(zip(configuration.pipeline, loaded, strict=False))
        if spec.partition(":")[0].endswith(".py")
    ]
    found.sort(key=lambda m: (m.position is None, m.position or 0, m.name))
    if options.json:
        write_json({
            "pipeline": list(configuration.pipeline),
            "config": configuration.file,
            "modules": [asdict(module) for module in found],
            "error": None if failure is None else failure.diagnostic.to_json(),
        })  # fmt: skip
    else:
        write(_text(found, configuration))
    if failure is None:
        return 0
    print(failure.diagnostic, file=sys.stderr)
    return 2


def _installed(name: str, point: EntryPoint, configuration: Configuration) -> Installed:
    pipeline = configuration.pipeline
    position = pipeline.index(name) + 1 if name in pipeline else None
    where = None if point.dist is None else f"{point.dist.name} {point.dist.version}"
    try:
        kind = point.load()
        if not (isinstance(kind, type) and issubclass(kind, Module)):
            raise TypeError(f"{point.value} is not a spidl.api.Module")
    except Exception as error:  # whatever a stranger's module raises when it is imported
        return Installed(name, "", point.value, where, position, (), (), (), (), False,
                         f"{type(error).__name__}: {error}")  # fmt: skip
    return _described(name, kind, point.value, where, position)


def _described(
    name: str, kind: type[Module], value: str, where: str | None, position: int | None
) -> Installed:
    weak, main, roles = _registers(kind)
    summary = (inspect.getdoc(kind) or "").partition("\n")[0]
    return Installed(name, summary, value, where, position, weak, main, roles, kind.after,
                     kind.policy, None)  # fmt: skip


def _registers(kind: type[Module]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """(weak phases, main phases, roles) that a module's ``register`` may claim.

    Read from its source: what it does claim depends on the object that it is called for.
    """
    try:
        source = textwrap.dedent(inspect.getsource(kind.register))
        calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    except (OSError, TypeError, SyntaxError):
        return (), (), ()
    known = kind.register.__globals__
    claims: dict[str, dict[str, None]] = {"weak": {}, "strong": {}}
    roles: dict[str, None] = {}
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        if not isinstance(call.func, ast.Attribute):
            continue
        if call.func.attr in _ROLES:
            roles[_ROLES[call.func.attr]] = None
        if call.func.attr in claims and call.args and isinstance(call.args[0], ast.Name):
            phase = known.get(call.args[0].id)
            if isinstance(phase, Phase | PostPhase):
                claims[call.func.attr][phase.name] = None
    return tuple(claims["weak"]), tuple(claims["strong"]), tuple(roles)


def _text(found: list[Installed], configuration: Configuration) -> list[str]:
    where = configuration.file or "the default"
    return [
        f"{paint('pipeline', BOLD)} ({where}): {', '.join(configuration.pipeline)}",
        "",
        *table(
            ("ORDER", "MODULE", "MAIN PASS", "WEAK PASS", "ALSO", "FROM", "SUMMARY"),
            (
                (str(m.position or "-"), m.name, ", ".join(m.main) or "-",
                 ", ".join(m.weak) or "-", ", ".join(m.roles) or "-",
                 m.distribution or m.value,
                 m.summary if m.error is None else f"cannot be loaded: {m.error}")
                for m in found
            ),
            numbers="ORDER",
        ),
    ]  # fmt: skip
