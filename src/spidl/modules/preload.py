"""LD_PRELOAD and /etc/ld.so.preload: objects that come before the program's own needs."""

from __future__ import annotations

from collections.abc import Iterator

from spidl.api import COLLECT, Dso, Link, Module, Need, Pipeline

PRELOAD_FILE = "/etc/ld.so.preload"


class Preload(Module):
    """Adds what LD_PRELOAD names: one weak collect pass (the paper, section 3.1)."""

    name = "preload"

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.is_root:
            pipeline.weak(COLLECT, preload)


def preload(dso: Dso, link: Link) -> Iterator[Need]:
    """LD_PRELOAD first, then the file (glibc: do_preload, handle_preload_list in rtld.c).

    ld.so only warns about one that is not found, and goes on without it.
    """
    wanted = [(name, "LD_PRELOAD") for name in link.environment.preload]
    if "ld-linux" in (dso.file.interp or ""):  # musl knows no such file
        content = link.read_input(PRELOAD_FILE) or b""
        lines = [line.split(b"#", 1)[0] for line in content.splitlines()]
        names = b" ".join(lines).replace(b":", b" ").split()
        wanted += [(n.decode(errors="surrogateescape"), PRELOAD_FILE) for n in names]
    for name, because in wanted:
        need = link.find(name, dso, because)
        if need.path is not None or link.known(need.name) is not None:
            yield need
