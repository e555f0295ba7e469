"""Real work under learned policies, of programs with many libraries or plug-ins too.

    python3 -m tests.survey.policies [NAME ...]

The exit status is 1 if a policy that was learned of a program refuses any of its work.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..programs.policy_work import ALL, check


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the work of all, or of those that are named."""
    parser = argparse.ArgumentParser(prog="tests.survey.policies", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    names = parser.parse_args(arguments).names
    status = 0
    for work in ALL:
        if names and work.name not in names:
            continue
        with tempfile.TemporaryDirectory(prefix="spidl-policies-") as folder:
            try:
                check(work, Path(folder))
                print(f"{work.name}: nothing is refused", flush=True)
            except AssertionError as difference:
                print(f"{work.name}: {difference}", flush=True)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
