"""Refuse a program that needs LIBRARY."""
from spidl.api import POST_COLLECT, Dso, Link, LinkError, Module, Pipeline, Place


class Refuse(Module):
    library: str

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.weak(POST_COLLECT, self.check)

    def check(self, link: Link) -> None:
        found = link.known(self.library)
        if found is not None and found.loader is not None:
            raise LinkError("refuse/library", f"{link.root} may not use {self.library}",
                            place=Place(found.loader.path, "DT_NEEDED"),
                            help=f"use another program, or leave the module `{self.name}` out")
