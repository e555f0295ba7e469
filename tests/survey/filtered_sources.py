"""Debian's source packages, whose test suites a survey runs; kept in pytest's cache folder."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from ..needs import tool

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".pytest_cache" / "d" / "spidl-sources"
_SOURCES = """\
Types: deb-src
URIs: {archive}
Suites: {suites}
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
_ARCHIVES = (
    ("http://deb.debian.org/debian", "{0} {0}-updates"),
    ("http://deb.debian.org/debian-security", "{0}-security"),
)


class Unavailable(Exception):
    """A source package cannot be had here; the message says what is missing."""


def unpacked(package: str, folder: Path) -> Path:
    """The upstream part of ``package``, of the version that is installed, below ``folder``.

    Raises `Unavailable`.
    """
    archive = _archive(package)
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([tool("tar", "tar"), "xf", archive, "-C", folder], check=True)
    (tree,) = folder.iterdir()
    return tree


def _archive(package: str) -> Path:
    """The .orig archive, downloaded unless it is there already."""
    version = _installed(package)
    pattern = f"{package}_{version}.orig.tar.*"
    kept = CACHE / package
    if not (found := sorted(kept.glob(pattern))):
        _download(package, version, kept)
        found = sorted(kept.glob(pattern))
    if not found:
        raise Unavailable(f"no source of {package} {version} in the archives of this Debian")
    return found[0]


def _installed(package: str) -> str:
    """The upstream version of the binaries that a source package has installed here."""
    asked = ["dpkg-query", "-W", "-f", "${source:Package} ${source:Upstream-Version} ${Status}\n"]
    listed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        name, version, *status = line.split()
        if name == package and status[-1] == "installed":
            return version
    raise Unavailable(f"nothing of the source package {package} is installed")


def _download(package: str, version: str, kept: Path) -> None:
    """Ask the archives for every version in turn: the pool drops what was replaced."""
    kept.mkdir(parents=True, exist_ok=True)
    options = _apt(kept)
    _call(["apt-get", *options, "update"])
    listed = _call(["apt-cache", *options, "showsrc", package])
    versions = re.findall(r"^Version: (.*)$", listed, re.MULTILINE)
    fitting = [one for one in versions if re.sub(r"^\d+:|-[^-]*$", "", one) == version]
    for one in fitting:
        command = ["apt-get", *options, "source", "--download-only", f"{package}={one}"]
        if subprocess.run(command, cwd=kept, capture_output=True, check=False).returncode == 0:
            return
    raise Unavailable(f"{package} {version} cannot be downloaded (versions: {fitting})")


def _apt(kept: Path) -> list[str]:
    """Options for an apt of its own: only source lists, nothing of the system's is changed."""
    state = kept / "apt"
    shutil.rmtree(state, ignore_errors=True)
    for part in ("parts", "lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True)
    suite = _suite()
    for number, (archive, suites) in enumerate(_ARCHIVES):
        text = _SOURCES.format(archive=archive, suites=suites.format(suite))
        (state / "parts" / f"{number}.sources").write_text(text)
    return [
        "-oDir::Etc::sourcelist=/dev/null",
        f"-oDir::Etc::sourceparts={state / 'parts'}",
        f"-oDir::State::lists={state / 'lists'}",
        f"-oDir::Cache={state / 'cache'}",
    ]


def _suite() -> str:
    text = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=(\w+)$", text, re.MULTILINE)
    if found is None:
        raise Unavailable("this is no Debian: /etc/os-release has no VERSION_CODENAME")
    return found[1]


def _call(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
