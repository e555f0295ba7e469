"""Trace every binding: who asks for which symbol, under which version, and who provides it."""
import sys

from spidl.api import POST_RELOCATE, Dso, Link, Module, Pipeline


class Trace(Module):
    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.weak(POST_RELOCATE, trace)


def trace(link: Link) -> None:
    for bindings in link.bindings:
        asked = bindings.requests
        for row, number in enumerate(bindings.provider.tolist()):
            version = asked.version_name(row)
            symbol = asked.name(row) + (f"@{version}" if version else "")
            provider = link.objects[number] if number >= 0 else "nothing"
            print(f"{asked.dso}: {symbol} -> {provider}", file=sys.stderr)
