"""What a module owns stays its own in an adopted process: words, mappings, permissions, scope."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOOK_TLS = """
from spidl.api import Definition, Dso, Link, Module, Pipeline, SymbolRequest

class HookGetppid(Module):
    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.is_root:
            pipeline.resolver(self.resolve)

    def resolve(self, request: SymbolRequest, dso: Dso, link: Link) -> Definition | None:
        libc = link.known("libc.so.6")
        if request.name != "getppid" or libc is None:
            return None
        return link.definition(libc, "getpid")
"""
TLS = """
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
_Thread_local pid_t (*function)(void) = getppid;
static void *work(void *same) { *(int *)same = function() == getpid(); return 0; }
int main(void)
{
    int there;
    pthread_t thread;
    pthread_create(&thread, 0, work, &there);
    pthread_join(thread, 0);
    printf("%d %d\\n", function() == getpid(), there);
    return 0;
}
"""
MORE_MEMORY = """
import numpy as np
from spidl.api import (
    LOAD, POST_RELOCATE, PROTECT, Dso, Link, Mapping, Module, Pipeline, Placement, Protect,
    Protection,
)

class MoreMemory(Module):
    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.is_root:
            pipeline.weak(LOAD, self.load)
            pipeline.weak(POST_RELOCATE, self.write)
            pipeline.weak(PROTECT, self.protect)

    def load(self, dso: Dso, link: Link) -> Placement:
        self.at = link.space.allocate(4096)
        both = Protection.READ | Protection.WRITE
        return Placement(0, (Mapping(self.at, 4096, both, link.by),))

    def write(self, link: Link) -> None:
        link.space.patch(self.at, b"made at link time", link.by)
        link.space.patch(link.definition(link.root, "place").address,
                         self.at.to_bytes(8, "little"), link.by)

    def protect(self, dso: Dso, link: Link) -> list[Protect]:
        return [Protect(self.at, 4096, Protection.READ)]
"""
PLACE = """
#include <stdio.h>
#include <string.h>
const char *place = "nowhere";
int main(void)
{
    char line[200], start[40];
    puts(place);
    snprintf(start, sizeof start, "%lx-", (unsigned long)place);
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps && fgets(line, sizeof line, maps))
        if (!strncmp(line, start, strlen(start)))
            printf("%.4s\\n", strchr(line, ' ') + 1);
    return 0;
}
"""
ADD_LIBM = """
from spidl.api import POST_COLLECT, Dso, Link, Module, Pipeline

class AddLibm(Module):
    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.weak(POST_COLLECT, self.add)

    def add(self, link: Link) -> None:
        link.add(link.find("libm.so.6", link.root, "add-libm"))
"""
FREXP = """
#include <math.h>
#include <stdio.h>
int main(int count, char **words)
{
    int exponent;
    (void)words;
    double part = frexp(8.0 * count, &exponent);
    printf("%g %d\\n", part, exponent);
    return 0;
}
"""


def run(folder: Path, module: str, source: str, *flags: str) -> str:
    """The output of a program that was linked with a module, and whose image was used."""
    (folder / "module.py").write_text(module)
    (folder / "program.c").write_text(source)
    program = folder / "program"
    subprocess.run(["gcc", "-O1", *flags, "-o", program, folder / "program.c"], check=True)
    environment = {**os.environ, "SPIDL_CACHE": str(folder / "cache"), "SPIDL_VERBOSE": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "spidl", "run", "--with", folder / "module.py", "--", program],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert (result.stderr, result.returncode) == ("", 0)
    return result.stdout


def test_hook_in_thread_local_storage(tmp_path: Path) -> None:
    """ld.so fills the first thread's block before we change the words it came from."""
    assert run(tmp_path, HOOK_TLS, TLS) == "1 1\n"


def test_mapping_and_permission(tmp_path: Path) -> None:
    assert run(tmp_path, MORE_MEMORY, PLACE, "-rdynamic") == "made at link time\nr--p\n"


@pytest.mark.parametrize("flags", [(), ("-no-pie",)])
def test_library_added_in_post_collect(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Both libm and libc have frexp; what is added comes first, for ld.so as well."""
    assert run(tmp_path, ADD_LIBM, FREXP, *flags) == "0.5 4\n"
