"""Who binds to whom, and why: the answers that the mediator kept, as values and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from spidl.cli.tables import BOLD, paint, plain, table
from spidl.diagnostics import LinkError, Place
from spidl.elf import SHN, STB, STT, STV, name_hash
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.symbols import Bindings, LookupClass, version_of

_CANONICAL = "address of its PLT entry"


@dataclass(frozen=True, slots=True)
class Binding:
    """One answered request.  Objects are paths; ``address`` is a run-time address in bytes, for
    TLS symbols an offset in the TLS segment."""

    asker: str
    symbol: str
    version: str | None
    """The version asked for, None for none."""
    provider: str | None
    """None: a weak reference that nothing answers, or an address that a resolver gave."""
    provider_version: str | None
    lookup: str
    """normal, plt or copy; local where a reference stays in its object and nothing is searched."""
    namespace: str
    owner: str | None
    """The module whose resolver answered, None where the scope did."""
    weak: bool
    kind: str
    address: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One definition of a name, chosen or not."""

    object: str
    version: str | None
    default: bool
    """Whether references without a version may take it."""
    scope: int | None
    """Position in its namespace from 1, None outside of every scope."""
    namespace: str
    kind: str
    size: int
    address: int
    answers: int
    """How many requests are bound to it."""
    verdict: str


def every_binding(link: Link) -> Iterator[Binding]:
    """All answers of a link, in the order they were asked for."""
    for bindings in link.bindings:
        for row in range(len(bindings)):
            yield binding_at(link, bindings, row)


def bindings_of(link: Link, name: str, version: str | None = None) -> list[Binding]:
    """The answers to requests for one name, of any version or of the one given."""
    wanted = name_hash(name.encode(errors="surrogateescape"))
    found = [
        binding_at(link, bindings, int(row))
        for bindings in link.bindings
        for row in np.flatnonzero(bindings.requests.hash == wanted)
    ]
    return [b for b in found if version is None or version in (b.version, b.provider_version)]


def binding_at(link: Link, bindings: Bindings, row: int) -> Binding:
    """One row of a batch of answers."""
    requests = bindings.requests
    number, symbol = int(bindings.provider[row]), int(bindings.symbol[row])
    provider = link.objects[number] if number >= 0 else None
    owner = int(bindings.owner[row])
    own = requests.dso.file.symbols[int(requests.symbol[row])]
    local = int(own["st_info"]) >> 4 == STB.LOCAL or int(own["st_other"]) & 3 in (
        STV.HIDDEN, STV.INTERNAL,
    )  # fmt: skip
    kind = _kind(int(bindings.type[row]))
    if provider is not None and symbol >= 0 and not bindings.defined[row] and not local:
        kind = _CANONICAL
    return Binding(
        asker=requests.dso.path,
        symbol=requests.name(row),
        version=requests.version_name(row),
        provider=None if provider is None else provider.path,
        provider_version=None if provider is None or symbol < 0 else version_of(provider, symbol),
        lookup="local" if local else LookupClass(int(requests.lookup[row])).name.lower(),
        namespace=requests.dso.namespace.name,
        owner=bindings.modules[owner] if owner >= 0 else None,
        weak=bool(requests.weak[row]),
        kind=kind,
        address=int(bindings.value[row]),
    )


def _kind(number: int) -> str:
    try:
        return STT(number).name.lower()
    except ValueError:
        return f"type {number}"


def candidates(link: Link, name: str, answered: list[Binding]) -> list[Candidate]:
    """Every definition of a name in any object, in scope order, with what became of it."""
    wanted = name_hash(name.encode(errors="surrogateescape"))
    counts = Counter((b.provider, b.address) for b in answered if b.owner is None and b.provider)
    winners: dict[str | None, str] = {}
    for b in answered:
        if b.provider is not None and b.lookup != "local":
            winners.setdefault(b.version, b.provider)
    found = []
    for dso in link.objects:
        members = dso.namespace.members
        scope = members.index(dso) + 1 if dso in members else None
        for index in np.flatnonzero(dso.file.name_hashes == wanted).tolist():
            symbol = dso.file.symbols[index]
            canonical = int(symbol["st_shndx"]) == SHN.UNDEF
            if canonical and not int(symbol["st_value"]):
                continue
            tls = int(symbol["st_info"]) & 15 == STT.TLS
            address = int(symbol["st_value"]) if tls else dso.symbol_address(index)
            version, default = version_of(dso, index), _is_default(dso, index)
            answers = counts.pop((dso.path, address), 0)
            if answers:
                verdict = f"answers {answers}"
            elif int(symbol["st_other"]) & 3 in (STV.HIDDEN, STV.INTERNAL):
                verdict = "not visible outside its object"
            else:
                verdict = _why_not(dso, version, default, scope, winners)
            found.append(Candidate(
                dso.path, version, default, scope, dso.namespace.name,
                _CANONICAL if canonical else _kind(int(symbol["st_info"]) & 15),
                int(symbol["st_size"]), address, answers, verdict,
            ))  # fmt: skip
    return sorted(found, key=lambda c: (c.scope is None, c.scope or 0))


def _is_default(dso: Dso, index: int) -> bool:
    versym = dso.file.versym
    return versym is None or not int(versym[index]) & 0x8000


def _why_not(
    dso: Dso,
    version: str | None,
    default: bool,
    scope: int | None,
    winners: dict[str | None, str],
) -> str:
    """Why a definition answers nobody; ``winners`` has the provider of each version asked for."""
    if scope is None:
        return "not in scope"
    winner = winners.get(version) or (winners.get(None) if default else None)
    if winner is not None and winner != dso.path:
        after = [other.path for other in dso.namespace.members[scope:]]
        return f"does not fit; {winner} does" if winner in after else f"comes after {winner}"
    if winners and version is not None and version not in winners:
        return f"nobody asks for {version}"
    return "not asked for"


def no_symbol(link: Link, name: str) -> LinkError:
    """The error for a name that no object has, with names that are like it."""
    folded = name.lower()
    similar: dict[str, None] = {}
    for dso in link.objects:
        for index in range(1, len(dso.file.symbols)):
            known = dso.file.symbol_name(index)
            if folded and known and (folded in known.lower() or known.lower() in folded):
                similar[known] = None
    close = sorted(similar, key=lambda known: (abs(len(known) - len(name)), known))[:5]
    return LinkError(
        "explain/no-symbol",
        f"no object of {link.root.name} asks for or defines `{plain(name)}`",
        place=Place(link.root.path),
        notes=(f"there is: {', '.join(close)}",) if close else (),
        help="names are as in the symbol table: C++ ones mangled, a version after an @",
    )


def explain_symbol(link: Link, wanted: str) -> tuple[list[Binding], list[Candidate]]:
    """Requests for and definitions of NAME or NAME@VERSION.

    Raises `LinkError` ``explain/no-symbol``.
    """
    name, _, version = wanted.partition("@")
    version = version.removeprefix("@")
    everything = bindings_of(link, name)
    chosen = [b for b in everything if not version or version in (b.version, b.provider_version)]
    defined = candidates(link, name, everything)
    known = chosen or any(not version or version == c.version for c in defined)
    if not name or not known:
        raise no_symbol(link, wanted)
    return chosen, defined


def symbol_text(link: Link, wanted: str) -> list[str]:
    """The explanation of one symbol for people."""
    asked, defined = explain_symbol(link, wanted)
    name = plain(wanted.partition("@")[0])
    position = {dso.path: i + 1 for i, dso in enumerate(link.main.members)}
    lines = [paint(f"{name}: {len(asked)} ask for it", BOLD)]
    if asked:
        lines += table(
            ("ASKER", "VERSION", "LOOK-UP", "PROVIDER", "VERSION", "SCOPE"),
            (
                (b.asker, b.version or "-", b.lookup + (", weak" if b.weak else ""),
                 _answer(b), b.provider_version or "-",
                 f"{b.namespace} {position.get(b.provider or '', '-')}")
                for b in asked
            ),
        )  # fmt: skip
    lines += ["", paint(f"{len(defined)} define it", BOLD)]
    if defined:
        lines += table(
            ("SCOPE", "OBJECT", "SYMBOL", "KIND", "SIZE", "ADDRESS", "VERDICT"),
            (
                (f"{c.namespace} {c.scope or '-'}", c.object, _versioned(name, c), c.kind,
                 str(c.size), f"{c.address:#x}", c.verdict)
                for c in defined
            ),
            numbers="SIZE",
        )  # fmt: skip
    return lines


def _answer(binding: Binding) -> str:
    if binding.owner is not None:
        return f"module {binding.owner}: {binding.provider or hex(binding.address)}"
    return binding.provider or "nobody, so 0"


def _versioned(name: str, candidate: Candidate) -> str:
    """name@@VERSION for a default version, name@VERSION for an old one, as readelf prints."""
    if candidate.version is None:
        return name
    return f"{name}{'@@' if candidate.default else '@'}{candidate.version}"


def symbol_json(link: Link, wanted: str) -> dict[str, object]:
    """The explanation of one symbol for programs."""
    asked, defined = explain_symbol(link, wanted)
    return {
        "program": link.root.path,
        "symbol": wanted,
        "bindings": [asdict(b) for b in asked],
        "definitions": [asdict(c) for c in defined],
    }
