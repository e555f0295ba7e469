"""The runs of an adoption: one program, started in different surroundings."""

from __future__ import annotations

from spidl.link.link import Link
from spidl.link.runtime import Runtime
from spidl.link.space import page_up
from spidl.targets.exec.shown import Shown, place, preload_variable
from spidl.targets.exec.snapshot import CapturePlan

_PADDING = ({"A": "1"}, {"B": "x" * 700, "C": "", "D": "yy"}, {"E": "z" * 45, "F": "0"})
_ARGUMENTS = ((), ("one",), ("two", "3"))
_STACKS = (8 << 20, 9 << 20, 12 << 20)
"""Each run has another environment, argument count and stack limit, so that words which follow
one of them show it."""
_ARENA_GAP = 1 << 16


def capture_plans(link: Link, runtime: Runtime, shown: Shown) -> list[CapturePlan]:
    """Two lazy runs, one with every slot bound, and a third lazy one in its place."""
    root = link.root
    placements = {dso.number: place(dso) for dso in link.objects
                  if dso.identity is not None and dso.namespace is link.main}  # fmt: skip
    steering = dict(link.environment.steering)
    if shown.paths:
        steering["LD_PRELOAD"] = preload_variable(steering.get("LD_PRELOAD"), shown.paths)
    linker = placements.pop(runtime.linker.number)
    main = placements.pop(root.number)
    if shown.program is not None:
        main = shown.program.placement
    assert root.file.phdr_vaddr is not None, "main programs map their headers"
    shells = [shell.placement for shell in shown.shells if shell is not shown.program]
    plans = []
    for i, now in ((0, False), (1, False), (2, True), (2, False)):
        variables = {**_PADDING[i], **steering}
        if now and runtime.now_variable is not None:
            variables[runtime.now_variable] = "1"
        plans.append(
            CapturePlan(
                program=main.path,
                arguments=(root.path, *_ARGUMENTS[i]),
                environment=variables,
                main=main,
                interpreter=linker,
                libraries=(*placements.values(), *shells),
                stop=runtime.stop,
                arena=page_up(link.space.top) + _ARENA_GAP,
                entry=root.bias + root.file.entry,
                phdr=root.bias + root.file.phdr_vaddr,
                base=runtime.linker.start,
                stack_limit=_STACKS[i],
                deny_brk=runtime.deny_brk,
            )
        )
    return plans
