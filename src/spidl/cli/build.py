"""``spidl build``: link now, keep the image in a file."""

from __future__ import annotations

import argparse
import os
import time

from spidl.session import Request, find_program
from spidl.session import build as link_and_encode


def build(options: argparse.Namespace) -> int:
    """Write the image whole or not at all, and say what was linked."""
    program = find_program(options.program)
    request = Request(program, tuple(options.extra), options.layout, options.config,
                      tuple(options.settings))  # fmt: skip
    began = time.perf_counter()
    content, link = link_and_encode(request)
    from spidl.targets.exec.writer import write_whole  # numpy, which the link has imported

    write_whole(options.output, content)
    seconds = time.perf_counter() - began
    print(
        f"{options.output}: {os.path.basename(program)} with {len(link.objects) - 1} libraries, "
        f"{len(content) / 1e6:.2f} MB, linked in {seconds:.2f} s"
    )
    return 0
