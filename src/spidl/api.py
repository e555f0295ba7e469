"""Everything a module author imports.

A module is a class with ``register``; see docs/tutorial.md for the first one, and the built-in
modules (spidl/modules) for whole ones: they use nothing but this.
"""

import importlib
import typing

from spidl.diagnostics import Diagnostic, LinkError, Place, Refusal, Severity
from spidl.elf import (
    DF,
    DF_1,
    DT,
    ET,
    SHN,
    STB,
    STT,
    STV,
    VERSYM_HIDDEN,
    VERSYM_VERSION,
    ElfFile,
    R,
    name_hash,
    name_hashes,
    relocation_name,
)
from spidl.elf.build import Define, Relocate, Undefined, build_dso
from spidl.elf.reader import Load
from spidl.link.actions import (
    Action,
    Call,
    CallStore,
    FileIdentity,
    Filter,
    Gate,
    Jump,
    OpenedFile,
    Opening,
    Origin,
    Protection,
    Report,
    SetThread,
    ThreadCall,
)
from spidl.link.dso import Dso, MemoryObject, Need, TlsBlock, identity_of
from spidl.link.environment import Environment
from spidl.link.facts import Fact
from spidl.link.link import Link
from spidl.link.module import Module
from spidl.link.namespace import TREES, Namespace
from spidl.link.order import dependency_order, loading_order
from spidl.link.phases import (
    COLLECT,
    LOAD,
    POST_COLLECT,
    POST_LOAD,
    POST_PROTECT,
    POST_RELOCATE,
    PROTECT,
    RELOCATE,
    START,
)
from spidl.link.pipeline import Pipeline
from spidl.link.recipes import LAZY, RECIPES, VERSIONING, Batch, Recipe, Versioning, Words
from spidl.link.references import Reference, References, is_called, restore
from spidl.link.runtime import EXPECTED_RUNTIME, INTERPRETER, RUNTIME, Runtime
from spidl.link.space import (
    PAGE,
    AddressSpace,
    Mapping,
    Placement,
    Protect,
    Provenance,
    page_down,
    page_up,
)
from spidl.link.symbols import (
    I64,
    U64,
    Bindings,
    Definition,
    Exports,
    LookupClass,
    Requests,
    SymbolRequest,
    version_of,
)

if typing.TYPE_CHECKING:
    from spidl.analyse import Class, Site, Summary, summary_of
    from spidl.analyse.names import name_of, number_of

_LATE = {
    **dict.fromkeys(("Class", "Site", "Summary", "summary_of"), "spidl.analyse"),
    **dict.fromkeys(("name_of", "number_of"), "spidl.analyse.names"),
}
"""What only few modules need is imported when one asks for it."""


def __getattr__(name: str) -> object:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATE[name]), name)


__all__ = [
    "COLLECT",
    "DF",
    "DF_1",
    "DT",
    "ET",
    "EXPECTED_RUNTIME",
    "I64",
    "INTERPRETER",
    "LAZY",
    "LOAD",
    "PAGE",
    "POST_COLLECT",
    "POST_LOAD",
    "POST_PROTECT",
    "POST_RELOCATE",
    "PROTECT",
    "RECIPES",
    "RELOCATE",
    "RUNTIME",
    "SHN",
    "START",
    "STB",
    "STT",
    "STV",
    "TREES",
    "U64",
    "VERSIONING",
    "VERSYM_HIDDEN",
    "VERSYM_VERSION",
    "Action",
    "AddressSpace",
    "Batch",
    "Bindings",
    "Call",
    "CallStore",
    "Class",
    "Define",
    "Definition",
    "Diagnostic",
    "Dso",
    "ElfFile",
    "Environment",
    "Exports",
    "Fact",
    "FileIdentity",
    "Filter",
    "Gate",
    "Jump",
    "Link",
    "LinkError",
    "Load",
    "LookupClass",
    "Mapping",
    "MemoryObject",
    "Module",
    "Namespace",
    "Need",
    "OpenedFile",
    "Opening",
    "Origin",
    "Pipeline",
    "Place",
    "Placement",
    "Protect",
    "Protection",
    "Provenance",
    "R",
    "Recipe",
    "Reference",
    "References",
    "Refusal",
    "Relocate",
    "Report",
    "Requests",
    "Runtime",
    "SetThread",
    "Severity",
    "Site",
    "Summary",
    "SymbolRequest",
    "ThreadCall",
    "TlsBlock",
    "Undefined",
    "Versioning",
    "Words",
    "build_dso",
    "dependency_order",
    "identity_of",
    "is_called",
    "loading_order",
    "name_hash",
    "name_hashes",
    "name_of",
    "number_of",
    "page_down",
    "page_up",
    "relocation_name",
    "restore",
    "summary_of",
    "version_of",
]
