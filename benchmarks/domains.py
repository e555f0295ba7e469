"""What domains cost: calls across a domain boundary against normally linked ones, and operations.

    python -m benchmarks.domains

The same caller and callee are compiled once; one copy is linked by ld.so (dlopen), the other with
`spidl.domains`.  Rounds alternate, so that whatever else the machine does meets both; figures are
the least of all rounds for calls and the median for operations.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from spidl import domains
from spidl.domains import Domain, Interface

CALLS, ROUNDS, OPERATIONS = 20_000_000, 15, 400
CALLEE = "long callee(long n) { return n + 1; }\n"
CALLER = """
long callee(long n);
long run(long calls) { long n = 0; while (n < calls) n = callee(n); return n; }
"""
_RUN = Interface("long run(long calls);")


def _compile(folder: Path, name: str, text: str) -> Path:
    source, made = folder / f"{name}.c", folder / f"{name}.o"
    source.write_text(text)
    subprocess.run(["cc", "-O2", "-fPIC", "-c", "-o", made, source], check=True)
    return made


def _linked_by_ld_so(folder: Path, callee: Path, caller: Path) -> Callable[[int], int]:
    first, second = folder / "libcallee.so", folder / "libcaller.so"
    subprocess.run(["cc", "-shared", "-o", first, callee], check=True)
    subprocess.run(
        ["cc", "-shared", "-Wl,-z,now", "-o", second, caller, first, f"-Wl,-rpath,{folder}"],
        check=True,
    )
    run = ctypes.CDLL(str(second)).run
    run.restype, run.argtypes = ctypes.c_long, [ctypes.c_long]
    found: Callable[[int], int] = run
    return found


def _linked(source: Domain, caller: Path) -> Domain:
    target = Domain.create(caller)
    domains.resolve(source, target)
    domains.initialize(target)
    return target


def _through(source: Domain, caller: Path) -> Callable[[int], int]:
    run: Callable[[int], int] = domains.client(_linked(source, caller), _RUN).run
    return run


def calls(folder: Path) -> dict[str, float]:
    """Nanoseconds a call, the loop included."""
    callee, caller = _compile(folder, "callee", CALLEE), _compile(folder, "caller", CALLER)
    in_python = Domain.from_interface(
        Interface("long callee(long n);"), {"callee": lambda n: n + 1}
    )
    candidates = {
        "linked by ld.so": (_linked_by_ld_so(folder, callee, caller), CALLS),
        "linked as domains": (_through(Domain.create(callee), caller), CALLS),
        "domain implemented in Python": (_through(in_python, caller), CALLS // 100),
    }
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, (run, count) in candidates.items():
            start = time.perf_counter_ns()
            assert run(count) == count
            took = (time.perf_counter_ns() - start) / count
            best[name] = min(best.get(name, took), took)
    return best


def operations(folder: Path) -> dict[str, float]:
    """Microseconds an operation."""
    callee, caller = _compile(folder, "callee", CALLEE), _compile(folder, "caller", CALLER)
    library = folder / "placed.so"
    subprocess.run(["cc", "-shared", "-nostdlib", "-o", library, caller], check=True)
    source = Domain.create(callee)
    domains.initialize(source)
    target = _linked(source, caller)
    kept: list[Domain] = []

    def swap() -> None:
        domains.unresolve(source, target)
        domains.resolve(source, target)

    def create() -> None:
        kept.append(Domain.create(library))

    def start() -> None:
        domains.resolve(source, kept[-1])
        domains.initialize(kept[-1])

    found: dict[str, list[int]] = {}
    for number in range(OPERATIONS):
        due = [("unresolve and resolve, running", swap)]
        if number % 8 == 0:
            due += [("create", create), ("resolve and initialize", start)]
        for name, operation in due:
            before = time.perf_counter_ns()
            operation()
            found.setdefault(name, []).append(time.perf_counter_ns() - before)
    return {name: statistics.median(took) / 1000 for name, took in found.items()}


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="spidl-") as name:
        folder = Path(name)
        for what, nanoseconds in calls(folder).items():
            print(f"a call, {what:<30} {nanoseconds:8.2f} ns")
        for what, microseconds in operations(folder).items():
            print(f"{what:<38} {microseconds:8.1f} us")


if __name__ == "__main__":
    main()
