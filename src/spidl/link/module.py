"""What a module is."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from types import UnionType
from typing import TYPE_CHECKING, ClassVar, dataclass_transform

from spidl.diagnostics import LinkError, Place

if TYPE_CHECKING:
    from spidl.link.dso import Dso
    from spidl.link.pipeline import Pipeline


@dataclass_transform(eq_default=False)
class Module:
    """Base of every module, built in or not (the paper, section 3.1).

    ``register`` is called once for each object, in the order of the user's module list, and adds
    passes and resolvers to that object's pipeline.  Every module is a dataclass; its fields are its
    settings, filled from ``[modules.NAME]`` and checked against their annotations.
    """

    name: ClassVar[str] = ""
    """How the user calls it; by default the class name in kebab-case."""
    after: ClassVar[tuple[str, ...]] = ()
    """Modules that must come earlier in the list.  Checked, never sorted."""
    policy: ClassVar[bool] = False
    """It enforces something: its images refuse to start rather than start unprotected."""
    judges: ClassVar[bool] = False
    """It decides in post-relocate whether any code of the program may run: nothing that runs some
    begins before."""

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()
        dataclasses.dataclass(eq=False)(cls)

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        """Add passes for ``dso``.  Adding none means: do not handle."""
        raise NotImplementedError(f"{type(self).__name__}.register")


def check_order(modules: Sequence[Module]) -> None:
    """A module may say which others must come earlier; that is checked, never sorted.

    Raises `LinkError` ``register/order`` or ``register/twice``.
    """
    names = [module.name for module in modules]
    for i, module in enumerate(modules):
        if module.name in names[:i]:
            raise LinkError(
                "register/twice",
                f"module `{module.name}` is listed twice",
                help="name each module once in `modules` and --with",
            )
        for earlier in module.after:
            if earlier not in names[:i]:
                raise LinkError(
                    "register/order",
                    f"module `{module.name}` must come after `{earlier}`",
                    notes=(f"the order is: {', '.join(names)}",),
                    help=f"list `{earlier}` before `{module.name}`",
                )


def failed(module: str, phase: str, path: str, error: BaseException) -> LinkError:
    """What an exception that a module lets escape is turned into."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = (
        "nowhere"
        if trace is None
        else (f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}")
    )
    return LinkError(
        "module/failed",
        f"module `{module}` failed in {phase}: {type(error).__name__}: {error}",
        place=Place(path),
        notes=(f"raised at {where}",),
        help=f"this is a fault of the module; leave `{module}` out to go on without it",
    )


def expect_result(
    value: object, kind: type | UnionType, phase: str, module: str, path: str
) -> None:
    """Raises `LinkError` ``module/wrong-result`` unless a pass gave what its phase wants."""
    if not isinstance(value, kind):
        names = [kind.__name__] if isinstance(kind, type) else [k.__name__ for k in kind.__args__]
        wanted = " or ".join(names) if len(names) < 3 else "an action"
        raise LinkError(
            "module/wrong-result",
            f"module `{module}` gave {type(value).__name__} in {phase}, not {wanted}",
            place=Place(path),
            help="see docs/modules.md for what a pass of this phase gives",
        )
