"""GNU: what glibc's linker adds to System V, and the adoption of its state.

Versions, IFUNC, TLS descriptors, RELR, its search for libraries; then ld.so stays in the process
as the provider of run-time services (dlopen, TLS, the debugger's list).
"""

from __future__ import annotations

from spidl.api import (
    COLLECT,
    POST_COLLECT,
    POST_LOAD,
    RECIPES,
    START,
    TREES,
    VERSIONING,
    Action,
    Dso,
    Link,
    Module,
    Need,
    Pipeline,
)
from spidl.modules.gnu.recipes import GNU
from spidl.modules.gnu.runtime import enter, expect_runtime, interpreter, is_glibc, needs_linker
from spidl.modules.gnu.search import find, refuse_special
from spidl.modules.gnu.symbols import GnuVersioning, add_versions, check_versions
from spidl.modules.gnu.tree import find_in_tree


class Gnu(Module):
    """Handles every object of a program whose interpreter is glibc's ld.so."""

    name = "gnu"
    after = ("sysv",)

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if not is_glibc(dso.root.file.interp):
            return
        pipeline.finder(find)
        if dso.is_root:
            pipeline.weak(COLLECT, tell_trees)
        pipeline.weak(POST_COLLECT, bring_interpreter)
        pipeline.weak(POST_COLLECT, bring_recipes)
        pipeline.weak(POST_COLLECT, check_versions)
        pipeline.weak(POST_LOAD, check_versions)  # again, of what later modules have added
        pipeline.weak(POST_COLLECT, refuse_special)
        pipeline.weak(POST_LOAD, expect_runtime)
        if pipeline.exporter is not None:
            unversioned = pipeline.exporter[1]
            pipeline.exports(lambda dso, link: add_versions(dso, unversioned(dso, link)))
        if dso.is_root:
            without_libc = pipeline.main(START)

            def start(dso: Dso, link: Link) -> list[Action]:
                """Enter through ld.so, or directly where nothing needs it."""
                if needs_linker(link) or without_libc is None:
                    return enter(link)
                return list(without_libc(dso, link))

            pipeline.strong(START, start)


def tell_trees(dso: Dso, link: Link) -> list[Need]:
    """Say how to look into the file trees of other systems."""
    link.facts[TREES] = find_in_tree
    return []


def bring_interpreter(link: Link) -> None:
    """ld.so stays in the process for programs that cannot do without, whoever names it."""
    interp = interpreter(link)
    if interp is not None and needs_linker(link):
        link.add(Need(interp, interp, because="PT_INTERP"), in_scope=False)


def bring_recipes(link: Link) -> None:
    """Tell the GNU relocation types, and that references carry versions."""
    link.facts.setdefault(RECIPES, {}).update(GNU)
    link.facts[VERSIONING] = GnuVersioning()
