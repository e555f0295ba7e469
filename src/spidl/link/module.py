"""What a module is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from spidl.link.dso import Dso
    from spidl.link.pipeline import Pipeline


class Module:
    """Base of every module, built in or not (the paper, section 3.1).

    ``register`` is called once for each object, in the order of the user's module list, and adds
    passes and resolvers to that object's pipeline.  A module with settings is a dataclass; its
    fields are filled from ``[modules.NAME]`` and checked against their annotations.
    """

    name: ClassVar[str] = ""
    """How the user calls it; by default the class name in kebab-case."""
    after: ClassVar[tuple[str, ...]] = ()
    """Modules that must come earlier in the list.  Checked, never sorted."""
    policy: ClassVar[bool] = False
    """It enforces something: its images refuse to start rather than start unprotected."""

    def __init_subclass__(cls) -> None:
        if "name" not in cls.__dict__:
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        """Add passes for ``dso``.  Adding none means: do not handle."""
        raise NotImplementedError(f"{type(self).__name__}.register")
