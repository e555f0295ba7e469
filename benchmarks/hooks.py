"""What a hooked or traced call costs, beside LD_PRELOAD and ltrace: nanoseconds a call.

    python -m benchmarks.hooks [--json FILE] [--rounds N]

A program calls a function of a library that does next to nothing, in a loop that it times itself.
All ways take turns, round by round; the figure is the median of the rounds.  Processor time of the
calling thread is measured, so that what else the machine does counts less; calls that wait for
another process (ltrace) are given as time on the clock, which is what their user waits for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LIBRARY = "int bench_add(int a, int b) { return a + b; }\n"
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include <pthread.h>
#include <time.h>
int bench_add(int, int);
static long calls;
static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}
static void *work(void *result)
{
    double began = now(CLOCK_THREAD_CPUTIME_ID), clock = now(CLOCK_MONOTONIC);
    int sum = 0;
    for (long i = 0; i < calls; i++)
        sum = bench_add(sum, 1);
    ((double *)result)[0] = (now(CLOCK_THREAD_CPUTIME_ID) - began) / (double)calls;
    ((double *)result)[1] = (now(CLOCK_MONOTONIC) - clock) / (double)calls;
    return (void *)(long)(sum != calls);
}
int main(int count, char **words)
{
    pthread_t threads[2];
    double result[2][2];
    calls = atol(words[1]);
    int many = count > 2;
    for (int i = 0; i <= many; i++)
        pthread_create(&threads[i], 0, work, result[i]);
    for (int i = 0; i <= many; i++)
        pthread_join(threads[i], 0);
    printf("%.3f %.3f\\n", result[0][0], result[0][1]);
    return 0;
}
"""
HOOK = """
#define _GNU_SOURCE
#include <dlfcn.h>
int (*real_add)(int, int);
int bench_add(int a, int b) { return real_add(a, b); }
int hook_add(int a, int b) { return real_add(a, b); }
static __attribute__((constructor)) void begin(void)
{
    if (!real_add)
        real_add = (int (*)(int, int))dlsym(RTLD_NEXT, "bench_add");
}
"""
PROTOTYPE = "bench_add(a: int, b: int) -> int"
MANY, SOME, FEW = 20_000_000, 20_000, 500


@dataclass
class Way:
    """One way to start the program."""

    name: str
    words: list[str]
    calls: int
    environment: dict[str, str] = field(default_factory=dict)
    waits: bool = False
    """Whether another process does a part."""
    threads: bool = False
    cpu: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)

    def run(self) -> None:
        arguments = [str(self.calls), *(["two"] if self.threads else [])]
        done = subprocess.run(
            [*self.words, *arguments], env={**os.environ, **self.environment},
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
        )  # fmt: skip
        cpu, clock = map(float, done.stdout.split()[:2])
        self.cpu.append(cpu)
        self.clock.append(clock)

    @property
    def nanoseconds(self) -> float:
        return statistics.median(self.clock if self.waits else self.cpu)


def _compile(folder: Path, name: str, text: str, *flags: str) -> str:
    source, output = folder / f"{name}.c", folder / name
    source.write_text(text)
    subprocess.run(["gcc", "-O2", "-o", output, source, *flags], check=True)
    return str(output)


def _ways(folder: Path) -> Iterator[Way]:
    """Each way, its program linked."""
    _compile(folder, "libadd.so", LIBRARY, "-shared", "-fPIC", "-Wl,-h,libadd.so")
    program = _compile(folder, "caller", PROGRAM, f"-L{folder}", "-l:libadd.so", "-pthread",
                       "-Wl,-rpath,$ORIGIN", "-Wl,-z,lazy")  # fmt: skip
    hooks = _compile(folder, "libhook.so", HOOK, "-shared", "-fPIC")

    def image(name: str, *options: str) -> str:
        output = str(folder / name)
        subprocess.run([sys.executable, "-m", "spidl", "build", "-o", output, *options, program],
                       check=True)  # fmt: skip
        return output

    def traced(name: str, rule: str) -> str:
        rules = f'trace.rules=[{{symbol = "bench_add", {rule}}}]'
        return image(name, "--with", "trace", "--set", rules, "--set", "trace.output=/dev/null")

    rule = (f'hook.rules=[{{symbol = "bench_add", with = "{hooks}", function = "hook_add", '
            'original = "real_add"}]')  # fmt: skip
    log = f'mode = "log", prototype = "{PROTOTYPE}"'
    yield Way("ld.so", [program], MANY)
    yield Way("image", [image("plain")], MANY)
    yield Way("ld.so, LD_PRELOAD wrapper", [program], MANY, {"LD_PRELOAD": hooks})
    yield Way("image, hook", [image("hooked", "--with", "hook", "--set", rule)], MANY)
    counted = traced("counted", 'mode = "count"')
    yield Way("image, trace: count", [counted], MANY)
    yield Way("image, trace: count, two threads at once", [counted], MANY, threads=True)
    yield Way("image, trace: a line a call", [traced("calls", f'{log}, lines = "call"')], SOME)
    yield Way("image, trace: arguments and result", [traced("results", log)], SOME)
    ltrace = shutil.which("ltrace")
    if ltrace is None:
        print("ltrace is not installed (apt-get install ltrace): it is left out", file=sys.stderr)
        return
    only = ["-e", "bench_add@MAIN", "-f"]
    yield Way("ltrace -c", [ltrace, "-c", *only, program], FEW, waits=True)
    yield Way("ltrace", [ltrace, "-o", os.devnull, *only, program], FEW, waits=True)


def machine() -> str:
    """What was measured on."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} processors, Linux {platform.release()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="What a hooked or traced call costs.")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        ways = list(_ways(Path(name)))
        for _ in range(options.rounds):
            for way in ways:
                way.run()
    print(f"{machine()}; median of {options.rounds} rounds\n")
    print("| way | ns a call |\n|---|---|")
    for way in ways:
        print(f"| {way.name} | {way.nanoseconds:,.1f} |")
    if options.json:
        figures = {way.name: way.nanoseconds for way in ways}
        Path(options.json).write_text(json.dumps({"machine": machine(), "ns": figures}, indent=1))


if __name__ == "__main__":
    main()
