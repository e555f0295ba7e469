"""A finished load as a value: what was put where, relative to whatever addresses the next has.

Each word is an addend and the object whose bias it follows (a *base*); TLS words say what glibc is
asked for.  Loads are kept in the user's cache folder; `spidl.live.replay` performs them again.

A record's values are JSON's, and its long columns are arrays, named by the number of their group.
Bases: -1 for none, then this load's members in their order, then the process's own objects.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.cache.records import KEY, Record
from spidl.elf import SHN, STT, R
from spidl.link.actions import FileIdentity
from spidl.link.objects import TICK
from spidl.link.recipes import RECIPES
from spidl.link.space import Mapping
from spidl.link.symbols import I64, Bindings
from spidl.link.writes import Write
from spidl.live import process
from spidl.live.commit import SYMBOLIC, owner
from spidl.live.host import Resident
from spidl.live.loading import ORIGIN, Loading
from spidl.live.namespace import Namespace
from spidl.live.shell import ShellImage
from spidl.live.store import open_files
from spidl.modules.gnu.hwcaps import supported_levels

_RELATIVE = (R.RELATIVE, R.RELATIVE64)
MODULE, OFFSET, DESCRIPTOR = "module", "offset", "descriptor"
"""Kinds of TLS words: a module id, an offset from the thread pointer, half of a descriptor."""


class NotKept(Exception):
    """This load holds something that a record cannot say."""


def key_of(wanted: str, namespace: Namespace) -> tuple[str, bytes] | None:
    """Name and key of the record for loading a library now; None where none is kept.

    A tree of its own has symbolic links that nobody watches.
    """
    if namespace.members or namespace.root is not None:
        return None
    folders = os.environ.get("LD_LIBRARY_PATH")
    try:
        folder = os.getcwd() if folders else ""
        own = [identified(resident.path) for resident in namespace.process.residents()]
    except OSError:
        return None
    text = json.dumps(
        [wanted, sorted(namespace.process.names), folders, folder, supported_levels(), own]
    )
    digest = hashlib.sha256(os.fsencode(text)).digest()
    return f"load-{digest[:16].hex()}", digest.ljust(KEY, b"\0")


def find(name: str, key: bytes) -> Record | None:
    """The record that was kept."""
    loads = open_files().loads
    return None if loads is None else loads.read(name, key)


def keep(loading: Loading, name: str, key: bytes, began: int) -> None:
    """Keep a load that has not run yet; ``began`` is when it did, in nanoseconds since 1970."""
    loads = open_files().loads
    if loads is None:
        return
    try:
        record = describe(loading, began)
    except (NotKept, OSError):
        return
    loads.write(name, key, record)


def identified(path: str) -> list[Any]:
    """A path and the identity of the file there.  Raises OSError."""
    status = os.stat(path)
    return [path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns,
            status.st_ctime_ns]  # fmt: skip


def describe(loading: Loading, began: int) -> Record:
    """The record of a load.  Raises `NotKept`."""
    return _Description(loading, began).record


class _Description:
    """The making of one record."""

    def __init__(self, loading: Loading, began: int) -> None:
        self.loading = loading
        self.link = loading.link
        self.members = loading.members
        if loading.wanted() not in self.members:
            raise NotKept
        residents = loading.namespace.process.residents()
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self.bases = self._bases(residents)
        self.biases = np.array([dso.bias for dso in self.link.objects], np.uint64)
        self.answers = {bindings.requests.dso.number: bindings for bindings in self.link.bindings}
        if len(self.answers) != len(self.link.bindings):
            raise NotKept
        self.absolute = {
            number: self._absolute(bindings) for number, bindings in self.answers.items()
        }
        self.words: list[list[int]] = []
        self.thread_words: list[list[Any]] = []
        for write in self.link.space.writes:
            if not isinstance(write, Write) or write.width != 8 or (write.owner >= 0).any():
                raise NotKept
            if len(write.addresses):
                self._take(write)
        values = {
            "residents": [identified(resident.path) for resident in residents],
            "inputs": self._inputs(began),
            "absent": list(self.link.absent),
            "folder": self._folder(),
            "opened": loading.residents.opened,
            "wanted": self.members.index(loading.wanted()),
            "members": [self._member(number) for number in range(len(self.members))],
            "order": [self.members.index(member) for member in loading.order],
            "words": self.words,
            "thread": self.thread_words,
            "own": [[self.members.index(word.member), *word[1:]] for word in loading.own],
            "indirect": [self._indirect(*word) for word in loading.indirect],
        }
        self.record: Record = values, self.arrays

    def _bases(self, residents: Sequence[Resident]) -> I64:
        """The base of each object of the link, by its number."""
        places = {resident.map.address: number for number, resident in enumerate(residents)}
        found = np.full(len(self.link.objects), -1, np.int64)
        for dso in self.link.objects[1:]:
            present = self.loading.residents.of(dso)
            if present is None:
                found[dso.number] = self.members.index(self.loading.placed(dso))
            elif present.member is None and present.handle in places:
                found[dso.number] = len(self.members) + places[present.handle]
            else:
                raise NotKept
        return found

    def _inputs(self, began: int) -> list[list[Any]]:
        """Everything that was read; one that may have changed unnoticed makes the record void."""
        try:
            found = [identified(path) for path in self.link.inputs]
        except OSError:
            raise NotKept from None
        for (_, *now), then in zip(found, self.link.inputs.values(), strict=True):
            if now != flat(then) or began - now[-1] < TICK:
                raise NotKept
        return found

    def _folder(self) -> str | None:
        """The working folder, where a member names something relative to it."""
        for member in self.members:
            assert member.file is not None, "it was linked just now"
            needs, paths = member.file.needed, (member.file.rpath, member.file.runpath)
            named = [need for need in needs if "/" in need]
            named += [folder for path in paths if path for folder in path.split(":")]
            if not all(name.startswith("/") or ORIGIN.match(name) for name in named):
                return self.link.environment.folder
        return None

    # -- words -----------------------------------------------------------------------------------

    def _take(self, write: Write) -> None:
        """Say each word of a batch, all of one object and one relocation type."""
        member = owner(self.members, int(write.addresses[0]))
        if member is None or member.file is None:
            raise NotKept
        number = self.members.index(member)
        if write.table == "DT_RELR":
            self._group(number, number, write.addresses, write.values)
            return
        table = {"DT_RELA": member.file.rela, "DT_JMPREL": member.file.jmprel}.get(write.table)
        if table is None:
            raise NotKept
        rows = table[write.source]
        kind = int(rows["r_type"][0])
        if kind in _RELATIVE:
            self._group(number, number, write.addresses, write.values)
            return
        bindings, row = self._bound(number, kind, rows["r_sym"])
        provider = bindings.provider[row]
        if kind in SYMBOLIC:
            base = np.where(
                self.absolute[bindings.requests.dso.number][row], -1, self.bases[provider]
            )
            base[provider < 0] = -1
            for one in set(base.tolist()):
                of = base == one
                self._group(number, one, write.addresses[of], write.values[of])
        elif kind == R.DTPOFF64:
            self._group(number, -1, write.addresses, write.values)
        elif kind in (R.DTPMOD64, R.TPOFF64, R.TLSDESC):
            for position, of in enumerate(provider.tolist()):
                self._thread_word(number, kind, write, position, of, rows[position])
        else:
            raise NotKept

    def _group(
        self, member: int, base: int, addresses: npt.NDArray[Any], values: npt.NDArray[Any]
    ) -> None:
        """Words of one object that follow one base."""
        at = addresses - np.uint64(self.members[member].start)
        addends = values - np.uint64(self._bias(base))
        if (at & np.uint64(7)).any() or at.max() >> np.uint64(35):
            raise NotKept
        number = len(self.words)
        self.words.append([member, base])
        self.arrays[f"{number}.at"] = (at >> np.uint64(3)).astype(np.uint32)
        short = not len(addends) or int(addends.max()) < 2**32
        self.arrays[f"{number}.add"] = addends.astype(np.uint32) if short else addends

    def _bias(self, base: int) -> int:
        if base < 0:
            return 0
        number = int(np.flatnonzero(self.bases == base)[0])
        return int(self.biases[number])

    def _bound(self, member: int, kind: int, symbols: npt.NDArray[Any]) -> tuple[Bindings, I64]:
        """The answers of an object and, for each symbol, the row there."""
        recipe = self.link.facts[RECIPES][kind]
        number = int(np.flatnonzero(self.bases == member)[0])
        bindings = self.answers.get(number)
        if bindings is None:
            raise NotKept
        asked = np.flatnonzero(bindings.requests.lookup == recipe.lookup)
        ranks = np.full(int(bindings.requests.symbol.max(initial=0)) + 1, -1, np.int64)
        ranks[bindings.requests.symbol[asked]] = asked
        row = ranks[symbols]
        if (row < 0).any() or (bindings.owner[row] >= 0).any():
            raise NotKept
        return bindings, row

    def _absolute(self, bindings: Bindings) -> npt.NDArray[np.bool_]:
        """Rows whose symbol has a value and no place (SHN_ABS)."""
        found = np.zeros(len(bindings), np.bool_)
        for provider in set(bindings.provider.tolist()) - {-1}:
            of = bindings.provider == provider
            sections = self.link.objects[provider].file.symbols["st_shndx"]
            found[of] = sections[bindings.symbol[of]] == SHN.ABS
        return found

    def _thread_word(
        self, member: int, kind: int, write: Write, position: int, provider: int, row: Any
    ) -> None:
        if provider < 0:
            raise NotKept
        address, value = int(write.addresses[position]), int(write.values[position])
        place, base = address - self.members[member].bias, int(self.bases[provider])
        state = self.loading.tls_states[provider]
        if kind == R.DTPMOD64:
            self.thread_words.append([member, place, MODULE, base, 0])
        elif kind == R.TPOFF64:
            offset = state.offset()
            if offset is None:
                raise NotKept
            self.thread_words.append([member, place, OFFSET, base, (value - offset) % 2**64])
        else:
            half = place - int(row["r_offset"])
            for slot, at in state.slots.items():
                if slot.type == R.TLSDESC and process.read_word(at + half) == value:
                    image = self.members[base].shell.image
                    where = image.slots[slot] + half
                    self.thread_words.append([member, place, DESCRIPTOR, base, where])
                    return
            raise NotKept

    def _indirect(self, address: int, function: int, lasting: bool) -> list[Any]:
        member = owner(self.members, address)
        for dso in self.link.objects[1:]:
            if member is not None and dso.start <= function < dso.end:
                base = int(self.bases[dso.number])
                return [self.members.index(member), address - member.bias, base,
                        function - dso.bias, lasting]  # fmt: skip
        raise NotKept

    # -- members ---------------------------------------------------------------------------------

    def _member(self, number: int) -> dict[str, Any]:
        member = self.members[number]
        outline = member.outline
        if outline.identity is None:
            raise NotKept
        answers = self.answers.get(int(np.flatnonzero(self.bases == number)[0]))
        if answers is not None:
            self._keep_answers(number, answers)
        return {
            "outline": asdict(outline)
            | {"names": sorted(outline.names), "identity": flat(outline.identity)},
            "parts": [_part(part, member.bias) for part in member.parts],
            "shell": self._shell(number, member.shell.image),
            "uses": [self.members.index(other) for other in member.uses],
            "needs": [self.members.index(other) for other in member.needs],
            "late": [self.members.index(other) for other in member.late],
            "loader": -1 if member.loader is None else self.members.index(member.loader),
            "pinned": member.pinned,
            "permissions": [
                [protect.start - member.bias, protect.length, int(protect.protection)]
                for of, protect in self.loading.permissions
                if of is member
            ],
        }

    def _keep_answers(self, number: int, answers: Bindings) -> None:
        known = answers.provider >= 0
        moves = known & ~self.absolute[answers.requests.dso.number] & (answers.type != STT.TLS)
        biases = np.where(moves, self.biases[answers.provider], np.uint64(0))
        columns = {
            "symbol": answers.requests.symbol.astype(np.uint32),
            "provider": np.where(known, self.bases[answers.provider], -1).astype(np.int32),
            "moves": moves,
            "value": answers.value - biases,
        }
        self.arrays |= {f"answer{number}.{name}": column for name, column in columns.items()}

    def _shell(self, number: int, image: ShellImage) -> dict[str, Any]:
        """A shell's image; names of this load's shells are places in the tail."""
        sonames = {member.shell.soname: n for n, member in enumerate(self.members)}
        vaddrs = [vaddr for vaddr, _ in image.parts]
        lengths = [len(content) for _, content in image.parts]
        joined = b"".join(content for _, content in image.parts)
        self.arrays[f"shell{number}"] = np.frombuffer(joined, np.uint8)
        return {
            "base": image.base,
            "start": image.start,
            "size": image.size,
            "vaddrs": vaddrs,
            "lengths": lengths,
            "names": [
                [vaddr, sonames[name]] for name, vaddr in image.names.items() if name in sonames
            ],
            "slots": [[int(slot.type), slot.addend, at] for slot, at in image.slots.items()],
            "exits": image.exits,
            "headers": [image.headers[0], base64.b64encode(image.headers[1]).decode()],
            "dynamic": image.dynamic,
            "words": list(image.words),
        }


def _part(part: Mapping, bias: int) -> list[Any]:
    return [part.start - bias, part.length, int(part.protection), part.path is not None,
            part.offset, part.filled]  # fmt: skip


def flat(identity: FileIdentity) -> list[int]:
    """An identity as `identified` has it."""
    (seconds, nano), (changed, changed_nano) = identity.mtime, identity.ctime
    return [identity.device, identity.inode, identity.size, seconds * 10**9 + nano,
            changed * 10**9 + changed_nano]  # fmt: skip
