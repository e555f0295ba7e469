"""Which glibc-hwcaps subfolders this CPU may use (x86-64 psABI 3.1.1, microarchitecture levels)."""

from __future__ import annotations

from functools import cache

_LEVELS = (
    ("x86-64-v2", {"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"}),
    (
        "x86-64-v3",
        {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
    ),
    ("x86-64-v4", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
)


@cache
def supported_levels() -> tuple[str, ...]:
    """Subfolder names, the best first."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ()
    flags = set(line.partition(":")[2].split())
    found: list[str] = []
    for name, needed in _LEVELS:
        if not needed <= flags:
            break
        found.insert(0, name)
    return tuple(found)
