"""What a link depends on besides its own objects: files that were read or looked for."""

from __future__ import annotations

import os
from contextlib import suppress

from spidl.link.actions import FileIdentity
from spidl.link.dso import identity_of


class Inputs:
    """``inputs`` holds every file that was read, ``absent`` every path that was looked for in vain
    before the one that was found."""

    def __init__(self) -> None:
        self.inputs: dict[str, FileIdentity] = {}
        self.absent: dict[str, None] = {}

    def exists(self, path: str) -> bool:
        """Whether a file can be opened at ``path``; if not, that is recorded as an input."""
        if os.path.exists(path):
            return True
        self.absent[path] = None
        return False

    def watch(self, path: str) -> None:
        """Make a file or folder an input without reading it."""
        with suppress(OSError):
            self.inputs[path] = identity_of(os.stat(path))

    def read_input(self, path: str) -> bytes | None:
        """A configuration file as an input of the link; None when it cannot be read."""
        try:
            with open(path, "rb") as file:
                self.inputs[path] = identity_of(os.fstat(file.fileno()))
                return file.read()
        except OSError:
            self.absent[path] = None
            return None
