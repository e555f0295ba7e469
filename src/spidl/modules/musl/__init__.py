"""musl: its libc.so is its own linker, and is adopted like glibc's.

Sources: musl's ldso/dynlink.c (load_library, find_sym, do_relocs, __dls3).
"""

from __future__ import annotations

import os
from functools import cache

from spidl.api import (
    LAZY,
    POST_COLLECT,
    POST_LOAD,
    RUNTIME,
    START,
    Action,
    Dso,
    ElfFile,
    Exports,
    Jump,
    Link,
    LinkError,
    Module,
    Need,
    Pipeline,
    Runtime,
    TlsBlock,
)

_OWN_NAMES = ("libc.", "libpthread.", "librt.", "libm.", "libdl.", "libutil.", "libxnet.")
"""Libraries that are part of libc.so, whatever file is named (load_library)."""
_DEFAULT_PATH = "/lib:/usr/local/lib:/usr/lib"


class Musl(Module):
    """Handles every object of a program whose interpreter is musl's libc.so."""

    name = "musl"
    after = ("sysv",)

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if not is_musl(dso.root.file.interp):
            return
        pipeline.finder(find)
        pipeline.weak(POST_COLLECT, bring_interpreter)
        pipeline.strong(POST_LOAD, place_tls)
        if pipeline.exporter is not None:
            plain = pipeline.exporter[1]
            pipeline.exports(lambda dso, link: hide_old_versions(dso, plain(dso, link)))
        if dso.is_root:
            pipeline.strong(START, enter)


@cache
def is_musl(interpreter: str | None) -> bool:
    """Whether a program's PT_INTERP is musl: a linker that exports a whole libc."""
    if interpreter is None or "musl" not in os.path.basename(interpreter):
        return False
    try:
        return not ElfFile.open(interpreter).needed
    except LinkError:
        return False


def bring_interpreter(link: Link) -> None:
    """libc.so is in the process even where nothing names it; all binding is done at start."""
    interp = link.root.file.interp
    if interp is not None:
        link.add(Need(interp, interp, because="PT_INTERP"), in_scope=False)
    link.facts[LAZY] = False


def find(name: str, dso: Dso, link: Link) -> Need:
    """LD_LIBRARY_PATH, RPATH or RUNPATH along the chain of loaders, the path file, the defaults."""
    interp = link.root.file.interp
    if interp is not None and name.startswith(_OWN_NAMES):
        return Need(name, interp, found="part of libc.so")
    if "/" in name:
        path = os.path.join(link.environment.folder, name)
        return Need(name, path if link.exists(path) else None, found=f"the path {path}")
    folders = link.environment.paths("LD_LIBRARY_PATH", ":\n")
    asker: Dso | None = dso
    while asker is not None:
        origin = os.path.dirname(os.path.realpath(asker.path))
        paths = asker.file.runpath or asker.file.rpath or ""
        paths = paths.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)
        folders += paths.split(":")
        asker = asker.loader
    folders += _system_path(interp or "", link)
    for folder in filter(None, folders):
        path = os.path.join(folder, name)
        if link.exists(path):
            return Need(name, path, found=folder)
    return Need(name, found=f"searched: {', '.join(filter(None, folders))}")


def _system_path(interp: str, link: Link) -> list[str]:
    """etc/ld-musl-ARCH.path beside the linker's prefix, else the built-in path."""
    name = os.path.basename(interp).removesuffix(".so.1") + ".path"
    prefix = os.path.dirname(os.path.dirname(interp)).rstrip("/")
    content = link.read_input(f"{prefix}/etc/{name}")
    text = _DEFAULT_PATH if content is None else content.decode(errors="surrogateescape")
    return text.replace("\n", ":").split(":")


def hide_old_versions(dso: Dso, table: Exports) -> Exports:
    """musl ignores versions, but never binds to one that is not the default."""
    versym = dso.file.versym
    if versym is None:
        return table
    keep = (versym[table.symbol] & 0x8000) == 0
    return Exports(
        table.symbol[keep], table.hash[keep], table.version[keep], table.hidden[keep],
        table.default[keep], table.for_plt[keep], False,
    )  # fmt: skip


def place_tls(link: Link) -> None:
    """Static TLS as musl packs it: downwards in load order, aligned by address."""
    offset = 0
    module = 0
    for dso in link.objects:
        tls = dso.file.tls
        if tls is None:
            continue
        module += 1
        image = dso.bias + tls.vaddr
        if dso.is_root:
            offset = tls.memsz + ((-tls.memsz - image) & (tls.align - 1))
        else:
            offset += tls.memsz + tls.align - 1
            offset -= (offset + image) & (tls.align - 1)
        dso.tls = TlsBlock(module, offset)


def enter(dso: Dso, link: Link) -> list[Action]:
    """Continue at the program's entry: constructors run from __libc_start_main."""
    interp = link.root.file.interp
    linker = None if interp is None else link.known(interp)
    assert linker is not None, "post-collect added it"
    entry = dso.bias + dso.file.entry
    link.facts[RUNTIME] = Runtime(linker, entry, deny_brk=True, moves_absolute=True)
    return [Jump(entry)]
