"""Add a function made in memory: `answer`, which gives 42."""
from spidl.api import COLLECT, Dso, Link, MemoryObject, Module, Pipeline, build_dso

CODE = bytes.fromhex("b82a000000" "c3")  # mov eax, 42; ret


class Answer(Module):
    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.is_root:
            pipeline.weak(COLLECT, answer)


def answer(dso: Dso, link: Link) -> list[MemoryObject]:
    return [MemoryObject("libanswer.so", build_dso("libanswer.so", {"answer": CODE}), "answer.py")]
