"""``spidl domain``: build SPIN domains from their directives (docs/domains.md)."""

from __future__ import annotations

import argparse
import json

from spidl.domains.build import build


def domain(options: argparse.Namespace) -> int:
    """Build one, and say what was made."""
    made = build(options.folder, options.output, options.link)
    if options.json:
        print(json.dumps({"made": made}))
    else:
        print("\n".join(made))
    return 0
