"""Loading into the running process: time against dlopen, the cost of a call, leaks.

python -m benchmarks.live [LIBRARY...]
"""

from __future__ import annotations

import json
import os
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
live.load(sys.argv[2]).close()  # so that the modules are imported
start = time.perf_counter()
library = live.load(sys.argv[1])
first = time.perf_counter() - start
again = []
for _ in range(5):
    start = time.perf_counter()
    other = live.load(sys.argv[1])
    again.append(time.perf_counter() - start)
print(json.dumps([first, min(again), len(library.namespace.members)]))
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


def _run(code: str, *arguments: object) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip


def main(libraries: list[str]) -> None:
    """Print the three tables."""
    os.environ.setdefault("SPIDL_CACHE", tempfile.mkdtemp(prefix="spidl-bench-"))
    print(f"{'library':20} {'objects':>7} {'dlopen':>8} {'first':>8} {'again':>8}  ms, medians")
    for name in libraries:
        plain = [float(_run(_DLOPEN, name)) for _ in range(ROUNDS)]
        rows = [json.loads(_run(_LOAD, name, "libz.so.1")) for _ in range(ROUNDS)]
        first, again = (statistics.median(row[i] for row in rows) for i in (0, 1))
        print(
            f"{name:20} {rows[0][2]:7} {statistics.median(plain) * 1e3:8.2f} "
            f"{first * 1e3:8.2f} {again * 1e3:8.2f}"
        )
    plain_call, our_call = json.loads(_run(_CALLS))
    print(f"\na call: ctypes.CDLL {plain_call * 1e9:.0f} ns, spidl.live {our_call * 1e9:.0f} ns")
    maps, descriptors, pages = json.loads(_run(_LEAKS, "libz.so.1", CYCLES))
    print(
        f"after {CYCLES} loads and closes: {maps:+} mappings, {descriptors:+} descriptors, "
        f"{pages * 4:+} kB"
    )


if __name__ == "__main__":
    main(sys.argv[1:] or list(LIBRARIES))
