"""Pipelines: who runs when, who takes over, in which order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from passing import FUNCTION, Passes, Second, Third

from spidl.api import (
    COLLECT,
    LOAD,
    POST_COLLECT,
    POST_LOAD,
    POST_PROTECT,
    POST_RELOCATE,
    PROTECT,
    RELOCATE,
    START,
    Action,
    Dso,
    Exports,
    Jump,
    Link,
    MemoryObject,
    Module,
    Need,
    Pipeline,
    Placement,
)
from spidl.testing import PROGRAM, binding, build_dso, expect, memory_link, program


def test_all_ten_phases_run_in_order() -> None:
    ran: list[str] = []

    class Diary(Module):
        def register(self, dso: Dso, pipeline: Pipeline) -> None:
            ran.append("register")
            pipeline.weak(COLLECT, lambda dso, link: ran.append("collect") or [])
            pipeline.weak(POST_COLLECT, lambda link: ran.append("post-collect"))
            pipeline.weak(LOAD, lambda dso, link: ran.append("load") or Placement(0, ()))
            pipeline.weak(POST_LOAD, lambda link: ran.append("post-load"))
            pipeline.weak(RELOCATE, lambda dso, link: ran.append("relocate"))
            pipeline.weak(POST_RELOCATE, lambda link: ran.append("post-relocate"))
            pipeline.weak(PROTECT, lambda dso, link: ran.append("protect") or [])
            pipeline.weak(POST_PROTECT, lambda link: ran.append("post-protect"))
            pipeline.weak(START, lambda dso, link: ran.append("start") or [])

    memory_link(program(), modules=[Diary()]).run()
    assert ran == [
        "register", "collect", "post-collect", "load", "post-load",
        "relocate", "post-relocate", "protect", "post-protect", "start",
    ]  # fmt: skip


def test_a_later_strong_pass_takes_over_and_can_call_the_earlier() -> None:
    class Wider(Module):
        def register(self, dso: Dso, pipeline: Pipeline) -> None:
            before = pipeline.main(LOAD)
            assert before is not None, "sysv came first"

            def load(dso: Dso, link: Link) -> Placement:
                link.space.allocate(1 << 30)
                return before(dso, link)

            pipeline.strong(LOAD, load)

    link = memory_link(program(), modules=[Wider()])
    link.run()
    assert link.root.start >= link.space.base + (1 << 30)
    assert [(phase, lost.module) for phase, lost in link.pipelines[0].overridden] == [
        ("load", "sysv"),
    ]
    assert [run.module for run in link.history if run.phase == "load"] == ["wider"]


def test_weak_passes_complement_in_the_order_of_modules() -> None:
    ran: list[str] = []
    modules = [
        Passes(weak={RELOCATE: lambda dso, link: ran.append("passes")}),
        Second(weak={RELOCATE: lambda dso, link: ran.append("second")}),
    ]
    link = memory_link(program(), modules=modules)
    link.run()
    assert ran == ["passes", "second"]
    assert [run.module for run in link.history if run.phase == "relocate"] == [
        "sysv", "sysv", "passes", "second",
    ]  # fmt: skip


def test_what_weak_collect_passes_add_comes_before_the_own_needs() -> None:
    own = build_dso("libown.so", {"f": FUNCTION})
    added = build_dso("libadded.so", {"f": FUNCTION})
    module = Passes(weak={COLLECT: lambda dso, link: [MemoryObject("libadded.so", added, "test")]})
    link = memory_link(program(["f"], needed=["libown.so"]), {"libown.so": own}, [module])
    link.run()
    assert [dso.name for dso in link.main.members] == [PROGRAM, "libadded.so", "libown.so"]
    assert link.objects[1].made_by == "passes"
    assert link.objects[2].made_by == "sysv", "whose collect pass asked for it"
    assert binding(link, PROGRAM, "f").provider is link.objects[1]


def test_an_object_added_after_collect_has_its_needs_collected_too() -> None:
    low = build_dso("liblow.so", {"f": FUNCTION})
    high = build_dso("libhigh.so", {"g": FUNCTION}, needed=["liblow.so"])
    module = Passes(
        weak={POST_COLLECT: lambda link: link.add(MemoryObject("libhigh.so", high, "test"))}
    )
    link = memory_link(program(), {"liblow.so": low}, [module])
    link.run()
    assert [dso.name for dso in link.objects] == [PROGRAM, "libhigh.so", "liblow.so"]
    assert link.objects[1].made_by == "passes"


def test_needs_are_collected_breadth_first_and_once() -> None:
    shelf = {
        "liba.so": build_dso("liba.so", {"a": FUNCTION}, needed=["libc1.so", "libb.so"]),
        "libb.so": build_dso("libb.so", {"b": FUNCTION}, needed=["liba.so", "libd1.so"]),
        "libc1.so": build_dso("libc1.so", {"c": FUNCTION}, needed=["libd1.so"]),
        "libd1.so": build_dso("libd1.so", {"d": FUNCTION}, needed=["libd1.so"]),
    }
    link = memory_link(program(needed=["liba.so", "libb.so"]), shelf)
    link.run()
    assert [dso.name for dso in link.objects] == [
        PROGRAM, "liba.so", "libb.so", "libc1.so", "libd1.so",
    ]  # fmt: skip
    assert [dso.name for dso in link.objects[1].dependencies] == ["libc1.so", "libb.so"]


def test_a_post_pass_runs_once_for_all_objects() -> None:
    ran: list[Link] = []

    class Once(Module):
        def register(self, dso: Dso, pipeline: Pipeline) -> None:
            pipeline.weak(POST_LOAD, self.look)

        def look(self, link: Link) -> None:
            ran.append(link)

    lib = build_dso("libf.so", {"f": FUNCTION})
    memory_link(program(needed=["libf.so"]), {"libf.so": lib}, [Once()]).run()
    assert len(ran) == 1


def test_a_later_finder_takes_over() -> None:
    asked: list[str] = []

    class Finder(Module):
        def register(self, dso: Dso, pipeline: Pipeline) -> None:
            pipeline.finder(self.find)
            if dso.is_root:
                pipeline.weak(COLLECT, lambda dso, link: [link.find("libx.so", dso, "test")])

        def find(self, name: str, dso: Dso, link: Link) -> Need:
            asked.append(name)
            return Need(name, found="looked under the sofa")

    with expect("collect/not-found") as expected:
        memory_link(program(), modules=[Finder()]).run()
    assert asked == ["libx.so"]
    assert expected.diagnostic.notes == ("looked under the sofa",)


def test_exports_may_be_filtered_by_a_later_module() -> None:
    class Hide(Module):
        def register(self, dso: Dso, pipeline: Pipeline) -> None:
            assert pipeline.exporter is not None
            whole = pipeline.exporter[1]

            def none(dso: Dso, link: Link) -> Exports:
                table = whole(dso, link)
                keep = np.zeros(len(table.symbol), np.bool_)
                return Exports(
                    table.symbol[keep], table.hash[keep], table.version[keep],
                    table.hidden[keep], table.default[keep], table.for_plt[keep], False,
                )  # fmt: skip

            pipeline.exports(none)

    lib = build_dso("libf.so", {"f": FUNCTION})
    with expect("relocate/undefined-symbol"):
        link = memory_link(program(["f"], needed=["libf.so"]), {"libf.so": lib}, [Hide()])
        link.run()


def test_no_module_that_loads_is_an_error() -> None:
    link = Link(MemoryObject(PROGRAM, program(), "test"), [])
    with expect("load/no-pass"):
        link.run()


@pytest.mark.parametrize("jumps", [0, 2])
def test_the_program_is_entered_exactly_once(jumps: int) -> None:
    def start(dso: Dso, link: Link) -> Sequence[Action]:
        return [Jump(1)] * jumps

    with expect("start/no-entry"):
        memory_link(program(), modules=[Third(strong={START: start})]).run()


def test_actions_come_before_the_jump_in_the_order_of_modules() -> None:
    from spidl.api import Call, Filter

    modules = [
        Passes(weak={START: lambda dso, link: [Call(1)]}),
        Second(weak={START: lambda dso, link: [Filter(bytes(8))]}),
    ]
    link = memory_link(program(), modules=modules)
    link.run()
    assert link.actions == [
        Call(1), Filter(bytes(8)), Jump(link.definition(link.root, "_start").address),
    ]  # fmt: skip
