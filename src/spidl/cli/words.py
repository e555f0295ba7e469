"""One address: what is mapped there, who wrote it, and what the value means."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from spidl.cli.bindings import Binding, binding_at
from spidl.cli.tables import plain
from spidl.diagnostics import LinkError, Place
from spidl.elf import SHN, STT, R, relocation_name
from spidl.link.actions import Protection
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.recipes import RECIPES
from spidl.link.space import CopyRun, Mapping, Write
from spidl.link.symbols import LookupClass, version_of

_TABLES = ("DT_RELA", "DT_JMPREL")


@dataclass(frozen=True, slots=True)
class Spot:
    """A run-time address; ``dso`` is the object whose span holds it, if one does."""

    address: int
    dso: Dso | None

    def __str__(self) -> str:
        if self.dso is None:
            return f"{self.address:#x}"
        return f"{self.dso.label}+{self.address - self.dso.bias:#x}"


def spot(link: Link, text: str) -> Spot:
    """Read OBJECT+OFFSET (soname, file name or path; virtual offset) or a run-time address.

    Raises `LinkError` ``explain/bad-address``, ``explain/no-object``.
    """
    # Names may hold a plus themselves (libstdc++.so.6), numbers do not.
    name, plus, number = text.rpartition("+")
    try:
        offset = int(number, 0)
    except ValueError:
        raise _bad_address(text) from None
    if not 0 <= offset < 2**63:  # user space ends at 2**47
        raise _bad_address(text)
    if not plus:
        return at(link, offset)
    for dso in link.objects:
        if name in dso.names or name in (dso.name, dso.label, dso.path, os.path.basename(dso.path)):
            return Spot(dso.bias + offset, dso)
    raise LinkError(
        "explain/no-object",
        f"no object of {link.root.name} is called `{plain(name)}`",
        place=Place(link.root.path),
        notes=(f"its objects: {', '.join(plain(dso.label) for dso in link.objects)}",),
        help="give a soname, a file name or a path, as `spidl tree` shows them",
    )


def _bad_address(text: str) -> LinkError:
    return LinkError(
        "explain/bad-address",
        f"`{plain(text)}` is not an address",
        place=Place("command line", "--at"),
        help="give OBJECT+OFFSET, for instance libc.so.6+0x1d2cc0, or an address as explain prints",
    )


def at(link: Link, address: int) -> Spot:
    """The spot of a run-time address."""
    dso = next((dso for dso in link.objects if dso.start <= address < dso.end), None)
    return Spot(address, dso)


def describe(link: Link, address: int) -> str:
    """An address as OBJECT+OFFSET, with the symbol that covers it."""
    where = at(link, address)
    if where.dso is None:
        return f"{address:#x}"
    symbol = covering_symbol(where.dso, address - where.dso.bias)
    return str(where) if symbol is None else f"{where} {symbol}"


def covering_symbol(dso: Dso, vaddr: int) -> str | None:
    """NAME, NAME@VERSION or NAME+OFFSET of the dynamic symbol that covers a virtual address."""
    symbols = dso.file.symbols
    if not len(symbols):
        return None
    value, size = symbols["st_value"], symbols["st_size"]
    covers = (value <= vaddr) & ((vaddr - value < size) | (value == vaddr))
    covers &= (symbols["st_shndx"] != SHN.UNDEF) & (symbols["st_shndx"] != SHN.ABS)
    covers &= (symbols["st_info"] & 15 != STT.TLS) & (value != 0)
    rows = np.flatnonzero(covers)
    if not len(rows):
        return None
    index = int(rows[np.argmin(vaddr - value[rows])])
    version = version_of(dso, index)
    name = dso.file.symbol_name(index) + (f"@{version}" if version else "")
    inside = vaddr - int(value[index])
    return name + (f"+{inside:#x}" if inside else "")


def explain_at(link: Link, text: str) -> dict[str, object]:
    """Everything known about an address, for programs.

    Raises `LinkError` ``explain/bad-address``, ``explain/no-object``, ``explain/not-mapped``.
    """
    where = spot(link, text)
    mapping = link.space.at(where.address)
    if mapping is None:
        inside = "" if where.dso is None else f", in a hole between segments of {where.dso.name}"
        raise LinkError(
            "explain/not-mapped",
            f"nothing is mapped at {where.address:#x}{inside}",
            place=Place(link.root.path),
            notes=_near(link, where.address),
            help="addresses are those of `spidl explain`, not of a running process",
        )
    return {
        "program": link.root.path,
        "address": where.address,
        "spot": str(where),
        "symbol": None if where.dso is None
        else covering_symbol(where.dso, where.address - where.dso.bias),
        "mapping": _mapping(link, mapping, where.address),
        "value": _value(link, where.address),
        "writes": [_write(link, write, row) for write, row in link.space.writers(where.address)],
        "deferred": _deferred(link, where.address),
    }  # fmt: skip


def _near(link: Link, address: int) -> tuple[str, ...]:
    """The mappings below and above an address."""
    ordered = sorted(link.space.mappings, key=lambda m: m.start)
    below = [m for m in ordered if m.end <= address][-1:]
    above = [m for m in ordered if m.start > address][:1]
    return tuple(
        f"the nearest {side}: {m.start:#x}-{m.end:#x}, {plain(m.by.dso)}"
        for side, found in (("below", below), ("above", above))
        for m in found
    )


def letters(protection: Protection) -> str:
    """``r-x``, as /proc/PID/maps writes permissions."""
    return "".join(
        letter if protection & flag else "-"
        for letter, flag in (("r", Protection.READ), ("w", Protection.WRITE),
                             ("x", Protection.EXEC))
    )  # fmt: skip


def _mapping(link: Link, mapping: Mapping, address: int) -> dict[str, object]:
    final = [
        {"permission": letters(p.protection), "phase": by.phase, "module": by.module,
         "object": by.dso}
        for p, by in link.space.protections
        if p.start <= address < p.start + p.length
    ]  # fmt: skip
    in_file = mapping.path is not None and address - mapping.start < mapping.filled
    return {
        "start": mapping.start,
        "end": mapping.end,
        "permission": letters(mapping.protection),
        "phase": mapping.by.phase,
        "module": mapping.by.module,
        "object": mapping.by.dso,
        "file": mapping.path,
        "file_start": mapping.offset if mapping.path else None,
        "file_end": mapping.offset + mapping.filled if mapping.path else None,
        "file_offset": mapping.offset + address - mapping.start if in_file else None,
        "protected": final,
    }


def _value(link: Link, address: int) -> dict[str, object] | None:
    """The eight bytes from an address on, when the relocations are done."""
    try:
        value = int(link.space.memory.read_bytes(address, 8).view("<u8")[0])
    except LookupError:
        return None  # less than a word is left before the end of the mapping
    target = link.space.at(value)
    return {"word": value, "points_to": None if target is None else describe(link, value)}


def _write(link: Link, write: Write | CopyRun, row: int) -> dict[str, object]:
    found: dict[str, object] = {
        "phase": write.by.phase, "module": write.by.module, "object": write.by.dso,
    }  # fmt: skip
    if isinstance(write, CopyRun):
        found |= {"bytes": len(write.content), "address": write.address}
        dso = _named(link, write.by.dso)
        found["copied_from"] = describe(link, write.origin) if write.origin else None
        # Post-phases work on the whole link: whose COPY it is, the address tells.
        place = at(link, write.address).dso or dso
        if write.origin and place is not None:
            found |= _relocation_at(link, place, write.address)
        return found
    address = int(write.addresses[row])
    found |= {"bytes": write.width, "address": address, "value": int(write.values[row])}
    value = int(write.values[row])
    found["points_to"] = describe(link, value) if link.space.at(value) else None
    owner = int(write.owner[row])
    found["owner"] = write.owners[owner] if owner >= 0 else None
    dso = _named(link, write.by.dso)
    index = int(write.source[row])
    if write.table in _TABLES and index >= 0 and dso is not None:
        found |= _relocation(link, dso, write.table, index)
    elif write.table:
        found["table"] = write.table
    return found


def _named(link: Link, name: str) -> Dso | None:
    return next((dso for dso in link.objects if dso.label == name), None)


def _deferred(link: Link, address: int) -> dict[str, object] | None:
    """What the run-time linker or a resolver of the program writes at start, if it does."""
    for deferred in link.space.deferred:
        low = np.uint64(max(0, address - 7))
        rows = np.flatnonzero((deferred.addresses >= low)
                              & (deferred.addresses <= np.uint64(address)))  # fmt: skip
        if not len(rows):
            continue
        place, function = int(deferred.addresses[rows[0]]), int(deferred.functions[rows[0]])
        found: dict[str, object] = {
            "phase": deferred.by.phase, "module": deferred.by.module, "object": deferred.by.dso,
            "reason": deferred.reason, "address": place,
            "resolver": describe(link, function) if function else None,
        }  # fmt: skip
        dso = _named(link, deferred.by.dso)
        return found | ({} if dso is None else _relocation_at(link, dso, place))
    return None


def _relocation_at(link: Link, dso: Dso, address: int) -> dict[str, object]:
    """The relocation of an object's tables whose place is ``address``."""
    for name, rows in zip(_TABLES, (dso.file.rela, dso.file.jmprel), strict=True):
        for index in np.flatnonzero(rows["r_offset"] == np.uint64(address - dso.bias)):
            return _relocation(link, dso, name, int(index))
    return {}


def _relocation(link: Link, dso: Dso, name: str, index: int) -> dict[str, object]:
    """A relocation and, if it names a symbol, what that is bound to."""
    rows = dso.file.rela if name == "DT_RELA" else dso.file.jmprel
    number, symbol = int(rows[index]["r_type"]), int(rows[index]["r_sym"])
    found: dict[str, object] = {
        "table": name, "index": index, "type": relocation_name(number),
        "addend": int(rows[index]["r_addend"]),
    }  # fmt: skip
    if symbol == 0 or number in (R.RELATIVE, R.RELATIVE64, R.IRELATIVE):
        return found
    wanted = dso.file.symbol_name(symbol)
    found |= {"symbol": wanted, "version": version_of(dso, symbol)}
    binding = _binding_of(link, dso, symbol, number)
    if binding is not None:
        found |= {"provider": binding.provider, "provider_version": binding.provider_version,
                  "resolved_by": binding.owner}  # fmt: skip
    return found


def _binding_of(link: Link, dso: Dso, symbol: int, number: int) -> Binding | None:
    """The answer to the request that this relocation made."""
    recipe = link.facts[RECIPES].get(number)
    kind = LookupClass.NORMAL if recipe is None else recipe.lookup
    lookup = LookupClass.COPY if number == R.COPY else kind
    for bindings in link.bindings:
        requests = bindings.requests
        if requests.dso is dso:
            rows = np.flatnonzero((requests.symbol == symbol) & (requests.lookup == lookup))
            if len(rows):
                return binding_at(link, bindings, int(rows[0]))
    return None
