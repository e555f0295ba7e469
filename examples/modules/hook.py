"""Replace SYMBOL by REPLACEMENT of LIBRARY, whose own calls still reach the original."""
from spidl.api import COLLECT, Definition, Dso, Link, Module, Pipeline, SymbolRequest


class Hook(Module):
    symbol: str
    library: str
    replacement: str

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.is_root:
            pipeline.weak(COLLECT, lambda dso, link: [link.find(self.library, dso, "hook")])
            pipeline.resolver(self.resolve)

    def resolve(self, request: SymbolRequest, dso: Dso, link: Link) -> Definition | None:
        library = link.known(self.library)
        if request.name != self.symbol or library is None or request.dso is library:
            return None
        return link.definition(library, self.replacement)
