"""Count symbols: how many each object exports, and how many it binds."""
import sys

from spidl.api import POST_RELOCATE, Dso, Link, Module, Pipeline


class Count(Module):
    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.weak(POST_RELOCATE, count)


def count(link: Link) -> None:
    print(f"{'exports':>8}{'binds':>8}  object", file=sys.stderr)
    for dso in link.objects:
        exports = link.exports(dso)
        binds = sum(int((b.provider >= 0).sum()) for b in link.bindings if b.requests.dso is dso)
        print(f"{0 if exports is None else len(exports.symbol):8}{binds:8}  {dso}", file=sys.stderr)
