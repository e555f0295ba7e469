"""Binders: what brings an extension into the process (section 4.2, last paragraph).

A domain cannot resolve itself, since nothing in it may run before.  ``spidl domain build``
generates a binder beside each extension; this is the part that all have in common.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from spidl.diagnostics import LinkError
from spidl.domains.domain import Domain, combine, initialize, resolve
from spidl.domains.interface import Interface
from spidl.domains.linker import Linker
from spidl.domains.names import Authorize, Identity, NameServer

LINKER = "Domain"
"""The import that a `Linker` satisfies."""


@dataclass(frozen=True, slots=True)
class Binder:
    """How one extension is linked.

    ``extension`` is the path of its object file; ``imports`` are names to ask the name server for;
    ``exports`` is what the domain shows under its own name; ``grants`` are linked without asking.
    """

    name: str
    extension: str | os.PathLike[str]
    imports: tuple[str, ...] = ()
    exports: tuple[Interface, ...] = ()
    grants: tuple[Domain, ...] = ()

    def bind(self, names: NameServer, identity: Identity, linker: Linker | None = None) -> Domain:
        """Ask for the imports as ``identity``, create the domain, link and initialize it.

        With ``linker`` the extension has the linker for its import ``Domain``.  Raises `LinkError`
        ``domain/denied``, ``domain/unresolved``, and as `Domain.create`.
        """
        return bind_together([self], names, identity, linker)

    def shown(self, domain: Domain) -> Domain:
        """What of its domain others may link against: its interfaces and nothing else."""
        parts = [Domain.from_interface(interface, domain) for interface in self.exports]
        if not parts:
            raise LinkError(
                "domain/nothing-exported", f"{self.name} exports no interface",
                help="name a header in `exports`",
            )  # fmt: skip
        whole = parts[0]
        for part in parts[1:]:
            whole = combine(whole, part)
        return whole

    def export(
        self,
        names: NameServer,
        identity: Identity,
        domain: Domain,
        authorize: Authorize | None = None,
    ) -> Domain:
        """Register what the domain shows under the extension's name; gives it too.

        Raises `LinkError` ``domain/taken``, ``domain/nothing-exported``.
        """
        shown = self.shown(domain)
        with identity.active():
            names.register(self.name, shown, authorize)
        return shown


def bind_together(
    binders: Sequence[Binder],
    names: NameServer,
    identity: Identity,
    linker: Linker | None = None,
) -> Domain:
    """Bind extensions that import each other: they are cross-linked, combined and initialised.

    An import that is one of them is not asked for.  Raises `LinkError` as `Binder.bind`;
    ``domain/conflict`` where two export one name.
    """
    with identity.active():
        made = {binder.name: Domain.create(binder.extension, binder.name) for binder in binders}
        if len(made) < len(binders):
            raise LinkError(
                "domain/conflict", "two extensions that are bound together have one name",
                help="give each a name of its own",
            )  # fmt: skip
        whole, *rest = made.values()
        for part in rest:
            whole = combine(whole, part)
        if linker is not None:
            linker.serve(whole)
        for binder in binders:
            target = made[binder.name]
            for grant in binder.grants:
                resolve(grant, target)
            for name in binder.imports:
                other = next((b for b in binders if b.name == name), None)
                if other is not None:
                    source = other.shown(made[name])
                elif linker is not None and name == LINKER:
                    source = linker.domain
                else:
                    source = names.query(name)
                resolve(source, target)
        initialize(whole)
    return whole
