"""A load that was kept, performed again at the addresses of this process.

Before anything is opened, everything that the load was made from must be what it was; files are
compared once more while they are mapped.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping as Values
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from spidl.cache.records import Record
from spidl.diagnostics import LinkError
from spidl.elf import R
from spidl.link.actions import FileIdentity, Protection
from spidl.link.space import Mapping, Protect, Provenance
from spidl.live import process, segments
from spidl.live.commit import Commit, Indirect, Own, ShownPaths
from spidl.live.host import Resident
from spidl.live.kept import DESCRIPTOR, MODULE, identified
from spidl.live.loading import working_folder
from spidl.live.members import Answers, Member
from spidl.live.namespace import Namespace
from spidl.live.outline import Outline
from spidl.live.shell import Shell, ShellImage, new_soname, open_image, tell_debugger
from spidl.live.tls import OFFSET, Slot, static_offset

_BY = Provenance("load", "live", "a kept load")
_offset = cache(static_offset)
"""Of the process's own objects, which all stay."""


def still_holds(record: Record, namespace: Namespace) -> list[Resident] | None:
    """The process's own objects that a record's bases are, if all is as it was.

    Raises `LinkError` ``live/changed``, ``live/no-host``.
    """
    values = record[0]
    try:
        if any(identified(entry[0]) != entry for entry in values["inputs"]):
            return None
        if any(os.path.exists(path) for path in values["absent"]):
            return None
        if values["folder"] not in (None, working_folder()):
            return None
        for name in values["opened"]:
            namespace.process.open(name)
        residents = namespace.process.residents()
        if [identified(resident.path) for resident in residents] != values["residents"]:
            return None
    except OSError:
        return None
    for resident in residents:
        resident.check()
    return residents


def replay(record: Record, namespace: Namespace) -> Commit | None:
    """Load as a record has it; None where something is another now.

    Raises `LinkError` as a first load would.
    """
    residents = still_holds(record, namespace)
    if residents is None:
        return None
    again = Replay(record, namespace, residents)
    try:
        again.open()
        again.initialise()
    except LinkError as error:
        again.undo()
        if error.diagnostic.code == "live/changed":
            return None
        raise
    except BaseException:
        again.undo()
        raise
    return again


class Replay(Commit):
    """One performance; `open`, then `initialise` as in any load."""

    def __init__(self, record: Record, namespace: Namespace, residents: Sequence[Resident]) -> None:
        super().__init__(namespace)
        self._values, self._arrays = record
        self._residents = residents
        self._made: dict[int, Member] = {}

    def wanted(self) -> Member:
        """As `Commit.wanted`."""
        return self.members[self._values["wanted"]]

    def open(self) -> None:
        """Open the shells, map the segments, write every word but those of IFUNCs.

        Raises `LinkError` as the first load would, and ``live/changed``.
        """
        self._open_shells()
        biases = [member.bias for member in self.members]
        self._biases = [*biases, *(resident.bias for resident in self._residents), 0]
        self._write()
        for word in self._values["thread"]:
            self._write_thread_word(*word)
        for member, place, base, function, lasting in self._values["indirect"]:
            self.indirect.append(
                Indirect(self._biases[member] + place, self._biases[base] + function, lasting)
            )
        for number, place, name, addend, symbol in self._values["own"]:
            self.own.append(Own(self.members[number], place, name, addend, symbol))
        paths = [member.path for member in self.members]
        paths += [resident.path for resident in self._residents]
        for number, member in enumerate(self.members):
            self._tell(number, member, paths)
        self.hold()
        tell_debugger()

    def _open_shells(self) -> None:
        descriptions = self._values["members"]
        sonames = [new_soname(found["shell"]["base"]) for found in descriptions]
        shown = ShownPaths()
        for number in self._values["order"]:
            found = descriptions[number]
            outline = _outline(found["outline"])
            shell = self._open_shell(number, found["shell"], sonames, outline.path)
            member = Member(outline, shell, shown.new(outline.path))
            self._made[number] = member
            self.order.append(member)
        self.members = [self._made[number] for number in range(len(descriptions))]
        for member, found in zip(self.members, descriptions, strict=True):
            member.parts = tuple(_part(member, *part) for part in found["parts"])
            segments.map_segments(member.outline, member.bias, member.parts)
            member.uses = [self._made[other] for other in found["uses"]]
            member.needs = [self._made[other] for other in found["needs"]]
            member.late = [self._made[other] for other in found["late"]]
            member.loader = self._made.get(found["loader"])
            member.pinned = found["pinned"]

    def _open_shell(
        self, number: int, found: Values[str, Any], sonames: Sequence[str], path: str
    ) -> Shell:
        content = bytearray(self._arrays[f"shell{number}"].tobytes())
        tail = found["vaddrs"][-1]
        in_tail = len(content) - found["lengths"][-1]
        for vaddr, of in found["names"]:
            name = os.fsencode(sonames[of])
            at = in_tail + vaddr - tail
            content[at : at + len(name)] = name
        parts, at = [], 0
        for vaddr, length in zip(found["vaddrs"], found["lengths"], strict=True):
            parts.append((vaddr, bytes(content[at : at + length])))
            at += length
        place, headers = found["headers"]
        image = ShellImage(
            found["base"], found["start"], found["size"], parts, {},
            {Slot(R(kind), addend): at for kind, addend, at in found["slots"]},
            tuple(found["exits"]), (place, base64.b64decode(headers)), found["dynamic"],
            found["words"],
        )  # fmt: skip
        return open_image(image, sonames[number], path)

    def _write(self) -> None:
        for number, (member, base) in enumerate(self._values["words"]):
            at, addends = self._arrays[f"{number}.at"], self._arrays[f"{number}.add"]
            words = self._words(member)
            words[at] = addends + np.uint64(self._biases[base])

    def _words(self, number: int) -> npt.NDArray[np.uint64]:
        member = self.members[number]
        return process.memory(member.start, member.end - member.start).view(np.uint64)

    def _write_thread_word(self, member: int, place: int, kind: str, base: int, value: int) -> None:
        address = self._biases[member] + place
        if kind == DESCRIPTOR:
            value = process.read_word(self._biases[base] + value)
        else:
            own = base < len(self.members)
            handle = (
                self.members[base].shell.handle if own
                else self._residents[base - len(self.members)].map.address
            )  # fmt: skip
            if kind == MODULE:
                value = process.tls_module(handle)
            elif own:
                shell = self.members[base].shell
                value += shell.slot(OFFSET)
            else:
                offset = _offset(handle)
                if offset is None:  # this process has opened later what was there at the start
                    path = self._residents[base - len(self.members)].path
                    raise segments.changed(path, "its thread-local storage is not static here")
                value += offset
        process.write_word(address, value)

    def _tell(self, number: int, member: Member, paths: Sequence[str]) -> None:
        """What tools and the curious see."""
        found = self._values["members"][number]
        for start, length, protection in found["permissions"]:
            protect = Protect(member.bias + start, length, Protection(protection))
            self.permissions.append((member, protect))
        if f"answer{number}.symbol" in self._arrays:
            provider = self._arrays[f"answer{number}.provider"].astype(np.int64)
            moves = self._arrays[f"answer{number}.moves"]
            biases = np.array(self._biases, np.uint64)[provider]
            values = self._arrays[f"answer{number}.value"] + biases * moves
            symbol = self._arrays[f"answer{number}.symbol"].astype(np.int64)
            none = np.full(len(symbol), -1, np.int64)
            member.answers.append(Answers(symbol, provider, values, none, paths))
        member.show()


def _outline(found: dict[str, Any]) -> Outline:
    device, inode, size, modified, changed = found["identity"]
    identity = FileIdentity(device, inode, size, divmod(modified, 10**9), divmod(changed, 10**9))
    return Outline(
        found["name"], found["path"], frozenset(found["names"]), identity, found["start"],
        found["init"], found["fini"], tuple(found["init_array"]), tuple(found["fini_array"]),
        found["stays"],
    )  # fmt: skip


def _part(
    member: Member, start: int, length: int, protection: int, backed: bool, offset: int, filled: int
) -> Mapping:
    path = member.path if backed else None
    return Mapping(member.bias + start, length, Protection(protection), _BY, path, offset, filled)
