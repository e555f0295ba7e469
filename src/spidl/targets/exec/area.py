"""Memory of an image that no object has: strings, tables, thunks."""

from __future__ import annotations

import numpy as np

from spidl.diagnostics import LinkError
from spidl.link.memory import U8
from spidl.link.space import page_up

AREA_SIZE = 1 << 20
"""Bytes that there is room for."""
_ALIGN = 16


class Area:
    """Bytes that grow from a page-aligned address upwards."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.content = bytearray()

    @property
    def end(self) -> int:
        """The address of what comes next."""
        return self.start + len(self.content)

    def add(self, content: bytes) -> int:
        """Keep bytes; gives their address, which is a multiple of 16."""
        at = self.end
        self.content += content.ljust((len(content) + _ALIGN - 1) & -_ALIGN, b"\0")
        return at

    def pages(self) -> U8:
        """Its content in whole pages.  Raises `LinkError` ``exec/no-room``."""
        if len(self.content) > AREA_SIZE:
            raise LinkError(
                "exec/no-room",
                f"{len(self.content)} bytes of tables, and there is room for {AREA_SIZE}",
                help="fewer objects in namespaces of their own need fewer",
            )
        whole = np.zeros(page_up(len(self.content)), np.uint8)
        whole[: len(self.content)] = np.frombuffer(bytes(self.content), np.uint8)
        return whole
