"""Analysing on many machines, through a running Dask scheduler (dask.distributed).

A task carries the bytes of its file, so the machines need no folder in common.  Its key is the
build-id: a file that two clients ask for in the same way is analysed once.  Each thread of a Dask
worker has a child process of its own (`Lane`), since a thread cannot be ended when a file takes too
long.
"""

from __future__ import annotations

import hashlib
import importlib
import threading
import warnings
from dataclasses import replace
from typing import Any

from spidl.diagnostics import Diagnostic, LinkError, Place
from spidl.distribution.lane import ANALYSER, Lane
from spidl.distribution.objects import Objects
from spidl.distribution.values import Job, Outcome, stopped
from spidl.distribution.worker import VERSIONS

_VERSION = "distribution/version"
_CONNECTING = 15.0
"""Seconds to wait for the scheduler, and for its first worker."""
_AHEAD = 2
"""Tasks a thread of the cluster: one that runs, one that is on its way."""
_local = threading.local()


def versions() -> tuple[str, int]:
    """What a worker has; see `VERSIONS`."""
    return VERSIONS


def remote(
    wanted: tuple[str, int], job: Job, content: bytes, timeout: float, url: str | None,
    analyser: str,
) -> Outcome | Diagnostic:  # fmt: skip
    """Analyse one file in a Dask worker; with ``url`` the outcome is kept there, and comes back
    without the summary.  A diagnostic says why this worker cannot analyse any file: exceptions of
    ours do not travel."""
    if wanted != VERSIONS:
        return _other_version("a worker that has joined", VERSIONS, wanted)
    lanes: dict[tuple[float, str], Lane] = _local.__dict__.setdefault("lanes", {})
    lane = lanes.setdefault((timeout, analyser), Lane(timeout, analyser))
    try:
        outcome = lane.analyse(job, content)
        if url is not None:
            Objects(url).put(outcome)
            outcome = replace(outcome, summary=None)
    except LinkError as error:
        return error.diagnostic
    return outcome


def _other_version(who: str, found: tuple[str, int], here: tuple[str, int]) -> Diagnostic:
    def text(versions: tuple[str, int]) -> str:
        return f"Spidl {versions[0]} with analyser {versions[1]}"

    return Diagnostic(
        _VERSION, f"{who} has {text(found)}, this is {text(here)}",
        help="install the same Spidl on every machine of the cluster",
    )  # fmt: skip


class Cluster:
    """`Workers` of a Dask cluster."""

    def __init__(
        self, address: str, timeout: float, url: str | None = None, analyser: str = ANALYSER
    ) -> None:
        """``address`` is the scheduler's, ``timeout`` in seconds a file; with ``url`` the workers
        keep summaries there themselves.

        Raises LinkError ``distribution/scheduler`` and ``distribution/version``.
        """
        self._address = address
        self._is_stopped = False
        self._arguments = (timeout, url, analyser)
        told = hashlib.sha256(repr((VERSIONS, *self._arguments)).encode()).hexdigest()
        self._key = f"spidl-{told[:16]}"
        try:
            distributed = importlib.import_module("distributed")
        except ImportError:
            raise LinkError(
                "distribution/scheduler", "Dask is not installed here", place=Place(address),
                help="pip install 'spidl[distribution]'",
            ) from None  # fmt: skip
        # It would like large arguments to be put on a worker first, which loses them with it.
        warnings.filterwarnings("ignore", message="Sending large graph")
        try:
            self._client: Any = distributed.Client(
                address, timeout=_CONNECTING, set_as_default=False
            )
        except (OSError, ValueError) as error:
            raise self._lost(str(error)) from None
        try:
            self.size = _AHEAD * self._check()
        except BaseException:
            self.stop()
            raise

    def _lost(self, why: str) -> LinkError:
        return LinkError(
            "distribution/scheduler", f"cannot work with the Dask scheduler: {why}",
            place=Place(self._address),
            help="check the address, and that `dask scheduler` and `dask worker` run; what is done "
            "is kept",
        )  # fmt: skip

    def _check(self) -> int:
        """Compare versions; gives the number of threads of all workers."""
        try:
            self._client.wait_for_workers(1, timeout=_CONNECTING)
            found: dict[str, Any] = self._client.run(versions, on_error="return")
            threads: dict[str, int] = self._client.nthreads()
        except (OSError, TimeoutError) as error:
            raise self._lost(str(error) or "no worker has joined it") from None
        for worker, version in sorted(found.items()):
            if isinstance(version, Exception):
                raise LinkError(
                    _VERSION, f"there is no Spidl like this one on a worker: {version}",
                    place=Place(worker), help="install the same Spidl on every machine",
                )  # fmt: skip
            if tuple(version) != VERSIONS:
                told = _other_version("a worker", version, VERSIONS)
                raise LinkError(_VERSION, told.message, place=Place(worker), help=told.help)
        return sum(threads.values())

    def analyse(self, job: Job) -> Outcome:
        """See `Workers.analyse`."""
        try:
            with open(job.path, "rb") as file:
                content = file.read()
        except OSError as error:
            told = Diagnostic(
                "distribution/changed", f"it is gone: {error.strerror}", Place(job.name),
                help="let an update finish, then start again",
            )  # fmt: skip
            return Outcome.failed(job.build_id, VERSIONS[1], told)
        try:
            task = self._client.submit(
                remote, VERSIONS, job, content, *self._arguments,
                key=f"{self._key}-{job.build_id}", pure=True,
            )  # fmt: skip
            found: Outcome | Diagnostic = task.result()
        except Exception as error:  # KilledWorker, and what a broken connection raises
            if self._is_stopped:
                raise stopped() from None
            if type(error).__name__ != "KilledWorker":
                raise self._lost(f"{type(error).__name__}: {error}") from None
            told = Diagnostic(
                "distribution/crash", "the workers that analysed it died", Place(job.name),
                help="see the workers' own messages",
            )  # fmt: skip
            return Outcome.failed(job.build_id, VERSIONS[1], told)
        if isinstance(found, Diagnostic):
            raise LinkError(found.code, found.message, place=found.place or Place(self._address),
                            help=found.help)  # fmt: skip
        return found

    def stop(self) -> None:
        """See `Workers.stop`."""
        self._is_stopped = True
        self._client.close(timeout=2)
