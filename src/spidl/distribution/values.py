"""What the parts of a run hand to each other: `Unit`, `Job`, `Outcome`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from spidl.diagnostics import Diagnostic, LinkError, Place


@dataclass(frozen=True, slots=True)
class Unit:
    """One ELF file of a distribution."""

    package: str
    """The package that it belongs to; its own path where no package has it."""
    path: str
    """Where it is installed, absolute inside the distribution."""
    build_id: str
    """In hex; ``sha256:`` and the digest of the file where it has none."""
    soname: str
    """DT_SONAME; empty for a file without one."""
    links: tuple[str, ...]
    """Names of symbolic links to it in its folder, by which others may need it."""
    is_program: bool
    """Whether it is started, rather than linked to."""
    runpath: tuple[str, ...]
    """Folders of DT_RUNPATH, or else of DT_RPATH, with $ORIGIN as it stands."""
    content: str
    """The path at which its bytes can be read now."""
    size: int
    """In bytes."""


@dataclass(frozen=True, slots=True)
class Job:
    """A file to analyse."""

    build_id: str
    path: str
    name: str
    """What messages call it."""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job."""

    build_id: str
    version: int
    """The analyser's."""
    summary: bytes | None
    """`Summary.to_bytes`; None for a failure."""
    seconds: float = 0.0
    """Of processor time."""
    error: str | None = None
    """For a failure: `Diagnostic.to_json` as text."""

    @classmethod
    def failed(
        cls, build_id: str, version: int, diagnostic: Diagnostic, seconds: float = 0.0
    ) -> Outcome:
        """A failure that a diagnostic tells about."""
        text = json.dumps(diagnostic.to_json(), sort_keys=True)
        return cls(build_id, version, None, seconds, text)


class Sink(Protocol):
    """Where outcomes go: a `Store`, or `Objects` in a shared folder."""

    def known(self, version: int, *, failures: bool = True) -> set[str]:
        """Build-ids that this version of the analyser is done with, failed ones if wanted."""
        ...

    def put(self, outcome: Outcome) -> None:
        """Keep an outcome; after this returns, a kill does not lose it."""
        ...

    def add(self, origin: str, units: list[Unit]) -> None:
        """Keep where files are installed; ``origin`` is the folder or package they came from."""
        ...

    def has_archive(self, path: str, size: int, mtime_ns: int, version: int) -> bool:
        """Whether all files of an unchanged package are known and done."""
        ...

    def add_archive(
        self, path: str, size: int, mtime_ns: int, units: list[Unit], error: Diagnostic | None
    ) -> None:
        """Keep the files of a package, or why it cannot be read, in the place of what was there."""
        ...

    def settle(self, folder: str, archives: set[str]) -> None:
        """A folder has been read to the end: forget what is no longer in it."""
        ...


class Workers(Protocol):
    """Who analyses: processes of this machine, or of a Dask cluster."""

    @property
    def size(self) -> int:
        """How many files are analysed at a time."""
        ...

    def analyse(self, job: Job) -> Outcome:
        """Analyse one file; called by `size` threads at a time.

        A file that cannot be analysed is an outcome.  Raises `LinkError` where no further file
        can be analysed either.
        """
        ...

    def stop(self) -> None:
        """End what still runs; calls of `analyse` that wait return or raise soon."""
        ...


def stopped() -> LinkError:
    """What `Workers.analyse` raises after `Workers.stop`."""
    return LinkError(
        "distribution/stopped", "the run has been stopped", place=Place("distribution"),
        help="the same command goes on where it stopped",
    )  # fmt: skip
