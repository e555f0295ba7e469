"""What a command printed, checked; and a compiler for small inputs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def failed(self, code: str) -> Answer:
        """Insist on one clear error with this code, and no traceback."""
        assert self.status == 2, self
        assert self.err.count(f"spidl: error[{code}]: ") == 1, self
        assert self.err.count("spidl: error[") == 1, self
        assert "Traceback" not in self.out + self.err
        assert "internal/" not in self.err
        return self


Command = Callable[..., Answer]


def compile_c(folder: Path, name: str, source: str, *flags: str) -> Path:
    text = folder / f"{name}.c"
    text.write_text(source)
    subprocess.run(
        ["gcc", "-O0", "-o", folder / name, text, f"-L{folder}", *flags], check=True
    )  # fmt: skip
    return folder / name
