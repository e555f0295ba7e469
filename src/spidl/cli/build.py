"""``spidl build``: link now, keep the image in a file."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING

from spidl.diagnostics import LinkError, Place
from spidl.session import Request, find_program
from spidl.session import build as link_and_encode

if TYPE_CHECKING:
    from spidl.link.link import Link


def build(options: argparse.Namespace) -> int:
    """Write the image whole or not at all, and say what was linked."""
    program = find_program(options.program)
    request = Request(program, tuple(options.extra), options.layout, options.config,
                      tuple(options.settings))  # fmt: skip
    began = time.perf_counter()
    content, link = link_and_encode(request)
    from spidl.targets.exec.writer import write_image  # numpy, which the link has imported

    _spare_inputs(options.output, link)
    write_image(options.output, content)
    seconds = time.perf_counter() - began
    print(
        f"{options.output}: {os.path.basename(program)} with {len(link.objects) - 1} libraries, "
        f"{len(content) / 1e6:.2f} MB, linked in {seconds:.2f} s"
    )
    return 0


def _spare_inputs(output: str, link: Link) -> None:
    """Raise `LinkError` ``exec/cannot-write`` where the image would replace what it is made of."""
    try:
        status = os.stat(output)
    except (OSError, ValueError):
        return  # no such file yet, or one that cannot be written either
    for path, found in link.inputs.items():
        if (found.device, found.inode) == (status.st_dev, status.st_ino):
            raise LinkError(
                "exec/cannot-write",
                "the output is an input of the link",
                place=Place(output),
                notes=(f"the link has read {path}",) if path != output else (),
                help="give the path of another file",
            )
