"""Passes that mypy must reject; each line that it must complain about says with what."""

from collections.abc import Iterator

from spidl.api import (
    COLLECT,
    LOAD,
    POST_LOAD,
    PROTECT,
    RELOCATE,
    START,
    Action,
    Definition,
    Dso,
    Fact,
    Link,
    MemoryObject,
    Module,
    Need,
    Pipeline,
    Placement,
    Protect,
    SymbolRequest,
)

NAMES: Fact[list[str]] = Fact("names")


class Wrong(Module):
    size: int

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.weak(COLLECT, self.collect)
        pipeline.strong(LOAD, self.load)
        pipeline.weak(PROTECT, self.protect)
        pipeline.weak(START, self.start)
        pipeline.weak(POST_LOAD, self.whole)
        pipeline.resolver(self.resolve)
        pipeline.strong(LOAD, self.collect)  # error: [arg-type]
        pipeline.weak(COLLECT, self.load)  # error: [arg-type]
        pipeline.weak(COLLECT, self.whole)  # error: [arg-type]
        pipeline.weak(PROTECT, self.start)  # error: [arg-type]
        pipeline.weak(START, self.protect)  # error: [arg-type]
        pipeline.weak(POST_LOAD, self.load)  # error: [arg-type]
        pipeline.weak(RELOCATE, self.load)  # error: [misc]
        pipeline.resolver(self.load)  # error: [arg-type]

    def collect(self, dso: Dso, link: Link) -> Iterator[Need | MemoryObject]:
        yield Need("libm.so.6")

    def load(self, dso: Dso, link: Link) -> Placement:
        return Placement(0, ())

    def protect(self, dso: Dso, link: Link) -> list[Protect]:
        return []

    def start(self, dso: Dso, link: Link) -> list[Action]:
        return []

    def whole(self, link: Link) -> None:
        link.facts[NAMES] = ["a"]
        link.facts[NAMES] = "a"  # error: [misc]
        link.facts[NAMES] + 1  # error: [operator]

    def resolve(self, request: SymbolRequest, dso: Dso, link: Link) -> Definition | None:
        return None


Wrong(size=1)
Wrong(size="1")  # error: [arg-type]
Wrong()  # error: [call-arg]
