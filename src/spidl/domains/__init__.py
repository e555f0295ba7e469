"""SPIN's link domains over the live target: who may name what, decided when code is linked.

    from spidl import domains
    from spidl.domains import Domain, Interface

    spl = Domain.from_interface(Interface("int High(void); void Restore(int);", "SPL"), functions)
    extension = Domain.create("extension.o")
    domains.resolve(domains.RUNTIME, extension)
    domains.resolve(spl, extension)
    domains.initialize(extension)

From the outside in: `domain` (the operations), `names` (identities and the name server), `linker`
(both for native code), `binder`, `build` and `directives` (what ``spidl domain build`` makes),
`interface`, `calls`, `capability`; `placed` (one object in the process) with `exports`,
`relocations`, `slots` and `gates` (what unresolved slots lead to); `host` (the process's symbols).
The manual is docs/domains.md.
"""

from spidl.diagnostics import LinkError
from spidl.domains.calls import Client
from spidl.domains.domain import (
    Domain,
    client,
    close,
    combine,
    initialize,
    nameable,
    resolve,
    unresolve,
)
from spidl.domains.host import RUNTIME_NAMES
from spidl.domains.interface import Interface
from spidl.domains.linker import Linker
from spidl.domains.names import Identity, NameServer, Principal, caller, only

RUNTIME = Domain.from_process(RUNTIME_NAMES, "RUNTIME")
"""What compiled code needs without saying so; it must be resolved like any other."""

__all__ = [
    "RUNTIME",
    "Client",
    "Domain",
    "Identity",
    "Interface",
    "LinkError",
    "Linker",
    "NameServer",
    "Principal",
    "caller",
    "client",
    "close",
    "combine",
    "initialize",
    "nameable",
    "only",
    "resolve",
    "unresolve",
]
