"""The tests of real programs in a root of another Debian, with that root's own Python and glibc.

    python3 -m tests.survey.trixie [--suite NAME] [--fresh] [PYTEST ARGUMENTS]

The root is made once by debootstrap from the mirror that this machine's apt uses, and kept in the
user's cache folder.  Each run copies the project in and starts pytest in a chroot, inside a mount
namespace of its own, so that nothing stays mounted.  Needs root.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from .roots import make_root

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = """
    binutils bzip2 dash file g++ gcc gdb git libc6-dev make musl-tools openssl perl
    libcap2-bin python3 python3-hypothesis python3-numpy python3-pytest sqlite3 strace xz-utils
""".split()  # noqa: SIM905 - a list of this length reads better as words
MOUNT = """
set -e
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
root=$1; shift
exec chroot "$root" "$@"
"""
IGNORED = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*_cache", "*.egg-info", ".hypothesis", "build"
)


def copy_project(root: Path) -> None:
    """The work tree as it is now, the built boot code included."""
    target = root / "opt" / "spidl"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for name in ("src", "tests", "boot", "examples", "pyproject.toml"):
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=IGNORED, symlinks=True)
        elif source.exists():
            shutil.copy2(source, target / name)


def inside(root: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``command`` in the root, with /proc, /sys and /dev."""
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNT, "sh", str(root)]
    env = {"PATH": os.defpath + ":/usr/sbin:/sbin", "HOME": "/root", "PYTHONPATH": "src", "CI": "1"}
    env["SPIDL_SURVEY"] = "1"
    env["PYTHONDONTWRITEBYTECODE"] = "1"
    shell = ["sh", "-c", 'cd /opt/spidl && exec "$@"', "sh", *command]
    return subprocess.run([*enter, *shell], stdin=subprocess.DEVNULL, env=env, check=False)


def table(report: Path) -> tuple[str, int]:
    """A line for each test file, from pytest's XML, and how many tests failed."""
    counts: dict[str, Counter[str]] = {}
    failed: list[str] = []
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        kind = next((k for k in ("failure", "error", "skipped") if k in kinds), "passed")
        name = case.get("classname", "?").rpartition(".")[2]
        counts.setdefault(name, Counter())[kind] += 1
        if kind in ("failure", "error"):
            failed.append(f"  {name}::{case.get('name')}")
    lines = [f"{'test file':<24}{'passed':>8}{'failed':>8}{'skipped':>8}"]
    for name, count in sorted(counts.items()):
        bad = count["failure"] + count["error"]
        lines.append(f"{name:<24}{count['passed']:>8}{bad:>8}{count['skipped']:>8}")
    return "\n".join([*lines, *failed]), len(failed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.survey.trixie", description=__doc__)
    parser.add_argument("--suite", default="trixie", help="the Debian release (default: trixie)")
    parser.add_argument("--fresh", action="store_true", help="make the root anew")
    options, pytest_arguments = parser.parse_known_args()
    if os.geteuid() != 0:
        raise SystemExit("survey: chroot and debootstrap need root")
    root = make_root(options.suite, PACKAGES, options.fresh)
    copy_project(root)
    versions = "import numpy, platform, sys; print('Python', platform.python_version(), 'numpy', "
    versions += "numpy.__version__, *platform.libc_ver())"
    inside(root, "/usr/bin/python3", "-c", versions)
    report = root / "opt" / "spidl" / "report.xml"
    command = ["/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short"]
    # test_bindings.py is about programs and LD_DEBUG output of the release that CI runs on.
    wanted = pytest_arguments or ["tests/programs", "--ignore=tests/programs/test_bindings.py"]
    status = inside(root, *command, f"--junitxml={report.relative_to(root / 'opt/spidl')}", *wanted)
    if not report.exists():
        return status.returncode or 1
    text, failed = table(report)
    print(f"\n{options.suite}:\n{text}")
    return 1 if failed or status.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
