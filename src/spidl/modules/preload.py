"""LD_PRELOAD and /etc/ld.so.preload: objects that come before the program's own needs."""

from __future__ import annotations

from collections.abc import Iterator

from spidl.api import COLLECT, Dso, Link, MemoryObject, Module, Need, Pipeline, Place, Refusal

PRELOAD_FILE = "/etc/ld.so.preload"


class Preload(Module):
    """Adds what LD_PRELOAD names: one weak collect pass (the paper, section 3.1)."""

    name = "preload"

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.is_root:
            pipeline.weak(COLLECT, preload)


def preload(dso: Dso, link: Link) -> Iterator[Need | MemoryObject]:
    """LD_PRELOAD first, then the file (glibc: do_preload, handle_preload_list in rtld.c).

    glibc's linker warns of a missing one at each start and goes on, which an image would not say:
    Refusal ``collect/no-preload``.  musl's goes on silently.
    """
    glibc = "ld-linux" in (dso.file.interp or "")
    wanted = [(name, "LD_PRELOAD") for name in link.environment.preload]
    if glibc:  # musl knows no such file
        content = link.read_input(PRELOAD_FILE) or b""
        lines = [line.split(b"#", 1)[0] for line in content.splitlines()]
        names = b" ".join(lines).replace(b":", b" ").split()
        wanted += [(n.decode(errors="surrogateescape"), PRELOAD_FILE) for n in names]
    for name, because in wanted:
        need = link.find(name, dso, because)
        if isinstance(need, MemoryObject) or need.path or link.known(need.name) is not None:
            yield need
        elif glibc:
            raise Refusal(
                "collect/no-preload",
                f"{name} is to be preloaded and was not found",
                place=Place(dso.path),
                notes=(f"named by {because}", need.found),
                help=f"correct {because}; ld.so warns of it at each start",
            )
