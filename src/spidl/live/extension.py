"""Extension modules of CPython, loaded through the live target."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from collections.abc import Sequence
from types import ModuleType

from spidl.diagnostics import LinkError, Place
from spidl.link.module import Module
from spidl.live import process
from spidl.live.library import load
from spidl.live.namespace import Namespace


def import_extension(
    name: str,
    path: str | os.PathLike[str],
    *,
    namespace: Namespace | None = None,
    modules: Sequence[str | Module] = (),
    root: str | None = None,
) -> ModuleType:
    """Load an extension module with libraries of its own, and import it as ``name``.

    It is not put into ``sys.modules``: CPython's own instance, if there is one, stays what others
    import.  CPython opens the library itself, by the path that only this instance has; an extension
    module is never unloaded.  Raises `LinkError` ``live/no-symbol`` where it is no extension of
    that name, and what its own initialisation raises.
    """
    library = load(path, namespace=namespace, modules=modules, root=root)
    last = name.rpartition(".")[2]
    if process.symbol_in(library.handle, f"PyInit_{last}") is None:
        library.close()
        raise LinkError(
            "live/no-symbol",
            f"{library.name} is no extension module `{name}`: it exports no `PyInit_{last}`",
            place=Place(library.path),
            help="give the name that the module was built for",
        )
    # Even if its initialisation fails, CPython keeps it open: what it is bound to has to stay.
    loader = importlib.machinery.ExtensionFileLoader(name, library.shown)
    specification = importlib.util.spec_from_file_location(name, library.shown, loader=loader)
    assert specification is not None, "it has a loader"
    module = importlib.util.module_from_spec(specification)
    loader.exec_module(module)
    return module
