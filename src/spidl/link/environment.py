"""The part of the world outside the files that can change a link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

STEERING_PREFIXES = ("LD_", "MALLOC_")
STEERING_NAMES = ("GLIBC_TUNABLES",)


def steers_linker(name: str) -> bool:
    """Whether a variable of this name can change what ld.so or malloc's set-up do (ld.so(8))."""
    return name.startswith(STEERING_PREFIXES) or name in STEERING_NAMES


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment variables and the working folder of the program to start."""

    variables: Mapping[str, str] = field(default_factory=dict)
    folder: str = "/"

    @property
    def steering(self) -> dict[str, str]:
        """Only the variables that steer the linker."""
        return {k: v for k, v in sorted(self.variables.items()) if steers_linker(k)}

    def paths(self, name: str, separators: str = ":") -> list[str]:
        """A path list variable, split; an empty entry means the working folder, as in ld.so."""
        value = self.variables.get(name, "")
        if not value:
            return []
        for other in separators[1:]:
            value = value.replace(other, separators[0])
        return value.split(separators[0])

    @property
    def preload(self) -> list[str]:
        """LD_PRELOAD's objects (ld.so(8): separated by spaces or colons)."""
        return [entry for entry in self.paths("LD_PRELOAD", ": ") if entry]
