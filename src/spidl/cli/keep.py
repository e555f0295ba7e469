"""``spidl keep``, which the launcher calls: make the link of a program, say whether to use it.

A module that enforces a policy turns every failure into an error.  A program that the system's
linker starts is started, whatever went wrong here, with a warning.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace

from spidl.diagnostics import LinkError, Place, Severity, fault
from spidl.keeping import kept_link
from spidl.session import Request, find_program, policies

KEPT = 0
"""There is an entry to be used: an image, or a refusal."""
PLAINLY = 3
"""There is none; the program may start all the same (launcher/start.c)."""


def keep(options: argparse.Namespace) -> int:
    """The exit status for the launcher.  Raises `LinkError` where the program must not start."""
    request = Request(find_program(options.program), tuple(options.extra), options.layout,
                      options.config, tuple(options.settings), cache=options.cache,
                      user_config=options.user_config)  # fmt: skip
    before = os.umask(0o077)  # the program's own may forbid even its owner
    try:
        entry = kept_link(request, options.but)
    except Exception as caught:  # a fault of Spidl's own is no reason for a program not to start
        if not isinstance(caught, LinkError) and os.environ.get("SPIDL_TRACEBACK"):
            raise
        error = caught if isinstance(caught, LinkError) else fault(caught)
        if policies(request):
            raise error from None
        if options.quiet:
            return PLAINLY
        if not _starts_plainly(request, error):
            raise error from None
        error.with_note("the program starts the plain way, under the system's linker")
        print(replace(error.diagnostic, severity=Severity.WARNING), file=sys.stderr)
        return PLAINLY
    finally:
        os.umask(before)
    if entry.image is not None:
        return KEPT
    enforced = policies(request)
    if enforced:
        raise LinkError(
            "start/policy",
            f"there is no image of {request.program}, and `{', '.join(enforced)}` must be enforced",
            place=Place(request.program),
            notes=(entry.kept.message,),
            help="run it without the module if it may run unprotected",
        )
    if entry.sum:
        return KEPT
    if os.environ.get("SPIDL_VERBOSE"):
        print(f"spidl: plain way: {entry.kept.message}", file=sys.stderr)
    return PLAINLY


def _starts_plainly(request: Request, error: LinkError) -> bool:
    """Whether the program starts without an image: a second opinion, where that is a question."""
    if error.code.startswith("cache/"):
        return True
    from spidl.cli.opinion import starts_plainly

    return starts_plainly(request, error)
