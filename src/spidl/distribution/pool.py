"""Analysing on this machine: a child process for each core."""

from __future__ import annotations

import os
import queue

from spidl.distribution.lane import ANALYSER, Lane
from spidl.distribution.values import Job, Outcome


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Pool:
    """`Workers` of this machine."""

    def __init__(self, size: int, timeout: float, analyser: str = ANALYSER) -> None:
        """``timeout`` is in seconds a file; see `Lane`."""
        self.size = size
        self._lanes = [Lane(timeout, analyser) for _ in range(size)]
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for lane in self._lanes:
            self._free.put(lane)

    def analyse(self, job: Job) -> Outcome:
        """See `Workers.analyse`."""
        lane = self._free.get()
        try:
            return lane.analyse(job)
        finally:
            self._free.put(lane)

    def stop(self) -> None:
        """See `Workers.stop`."""
        for lane in self._lanes:
            lane.stop()
