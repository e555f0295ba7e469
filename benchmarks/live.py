"""Loading into the running process: time against dlopen, the cost of a call, leaks.

python -m benchmarks.live [LIBRARY...]

*anew* is a load of a library that Spidl has not seen in this surrounding, *kept* one that it has;
both in a process that has loaded another library before.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile

LIBRARIES = ("libz.so.1", "libsqlite3.so.0", "libcrypto.so.3", "libpq.so.5", "libLLVM-14.so.1")
ROUNDS = 9
CYCLES = 10_000

_DLOPEN = """
import ctypes, sys, time
start = time.perf_counter()
ctypes.CDLL(sys.argv[1], 2)
print(time.perf_counter() - start)
"""
_LOAD = """
import json, sys, time
from spidl import live
live.load("libbz2.so.1.0").close()  # so that everything is imported
start = time.perf_counter()
library = live.load(sys.argv[1])
print(json.dumps([time.perf_counter() - start, len(library.namespace.members)]))
"""
_CALLS = """
import ctypes, json, timeit
from spidl import live
types = [ctypes.c_ulong, ctypes.c_char_p, ctypes.c_uint]
plain = ctypes.CDLL("libz.so.1").crc32
plain.restype, plain.argtypes = ctypes.c_ulong, types
ours = live.load("libz.so.1").function("crc32", ctypes.c_ulong, types)
def cost(function):
    return min(timeit.repeat(lambda: function(0, b"a", 1), number=100_000, repeat=7)) / 1e5
print(json.dumps([cost(plain), cost(ours)]))
"""
_LEAKS = """
import gc, json, os, sys
from spidl import live
def cycle(count):
    for _ in range(count):
        with live.load(sys.argv[1]) as library:
            library.address("zlibVersion")
def state():
    gc.collect()
    with open("/proc/self/maps") as maps, open("/proc/self/statm") as statm:
        return len(maps.readlines()), len(os.listdir("/proc/self/fd")), int(statm.read().split()[1])
cycle(500)
before = state()
cycle(int(sys.argv[2]))
print(json.dumps([after - b for after, b in zip(state(), before)]))
"""


def _run(code: str, *arguments: object, **variables: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=True, capture_output=True, text=True, env={**os.environ, **variables},
    ).stdout  # fmt: skip


def _load(name: str, cache: str) -> tuple[float, int]:
    """Seconds, and how many objects it brought."""
    seconds, objects = json.loads(_run(_LOAD, name, SPIDL_CACHE=cache))
    return seconds, objects


def _shown(seconds: list[float]) -> str:
    low, middle, high = statistics.quantiles(seconds, n=4)
    return f"{middle * 1e3:.2f} +-{(high - low) / 2 * 1e3:.2f}"


def main(libraries: list[str]) -> None:
    """Print the three tables."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
          f"{' '.join(platform.libc_ver())}; medians of {ROUNDS} processes, ms\n")  # fmt: skip
    head = f"{'library':20} {'objects':>7} {'dlopen':>14} {'anew':>14} {'kept':>14} {'ratio':>6}"
    print(head)
    with tempfile.TemporaryDirectory(prefix="spidl-bench-") as kept:
        for name in libraries:
            _load(name, kept)  # what it opens of the host list counts for the next
            columns: dict[str, list[float]] = {"dlopen": [], "anew": [], "kept": []}
            objects = 0
            for _ in range(ROUNDS):
                columns["dlopen"].append(float(_run(_DLOPEN, name)))
                with tempfile.TemporaryDirectory(prefix="spidl-bench-") as empty:
                    columns["anew"].append(_load(name, empty)[0])
                seconds, objects = _load(name, kept)
                columns["kept"].append(seconds)
            shown = " ".join(f"{_shown(column):>14}" for column in columns.values())
            ratio = statistics.median(columns["kept"]) / statistics.median(columns["dlopen"])
            print(f"{name:20} {objects:7} {shown} {ratio:6.2f}", flush=True)
    plain_call, our_call = json.loads(_run(_CALLS))
    print(f"\na call: ctypes.CDLL {plain_call * 1e9:.0f} ns, spidl.live {our_call * 1e9:.0f} ns")
    maps, descriptors, pages = json.loads(_run(_LEAKS, "libz.so.1", CYCLES))
    print(
        f"after {CYCLES} loads and closes: {maps:+} mappings, {descriptors:+} descriptors, "
        f"{pages * 4:+} kB"
    )


if __name__ == "__main__":
    main(sys.argv[1:] or list(LIBRARIES))
