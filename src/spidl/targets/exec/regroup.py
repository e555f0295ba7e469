"""Objects of other namespaces in ld.so's own lists: each among its own.

ld.so had them as preloads of the program, with names and scopes hidden (`hidden`).  Here its
link_maps are edited as if it had loaded every object where it belongs: names, dynamic entries,
hash tables, scopes, and the order of constructors.

A namespace that opens libraries is one of ld.so's own.  The program's libraries that it shares have
*proxies* there, as ld.so makes one of itself in every namespace: maps of the same names whose
l_real leads to the program's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from spidl.diagnostics import Refusal
from spidl.elf import DT, ElfFile
from spidl.link.dso import Dso
from spidl.link.link import Link
from spidl.link.memory import Memory
from spidl.link.namespace import Namespace
from spidl.link.runtime import RUNTIME
from spidl.targets.exec.area import Area
from spidl.targets.exec.hidden import hidden_entries
from spidl.targets.exec.maps import (
    ADDR,
    DYNAMIC,
    LIBNAME,
    MOST_NAMESPACES,
    NAME,
    NAMESPACE,
    NEXT,
    PREVIOUS,
    REAL,
    SIZE,
    Fields,
    HashTable,
    Lists,
    Words,
    find_fields,
    find_lists,
    find_lock,
)
from spidl.targets.exec.opening import find_openers
from spidl.targets.exec.origin import find_debug
from spidl.targets.exec.shown import Shell, Shown
from spidl.targets.exec.spaces import Space, Spaces

_R_DEBUG, _R_NEXT = 48, 40
"""The size of struct r_debug_extended, the last field of struct link_namespaces; in it r_next."""


def regroup(
    link: Link, shown: Shown, memory: Memory, code: Area, data: Area, origin: int | None
) -> Spaces | None:
    """Edit the adopted link_maps.  What is new goes to ``code``, which is read-only, and to
    ``data``; ``origin`` is the offset of l_origin, if it is known.

    Gives what the process needs for it later, if there is any other namespace.  Raises `Refusal`
    ``adopt/unknown-map``, ``adopt/many-namespaces``.
    """
    if len(link.namespaces) == 1:
        return None
    spaces = _Regrouping(link, shown, memory, code, data, origin).run()
    spaces.place(code, data)
    return spaces


class _Regrouping:
    def __init__(
        self, link: Link, shown: Shown, memory: Memory, code: Area, data: Area,
        origin: int | None,
    ) -> None:  # fmt: skip
        self.link, self.code, self.data, self.origin = link, code, data, origin
        self.words = Words(memory)
        self.map_of: dict[int, int] = {}
        """Maps by number of their object; an object of another namespace has its hidden copy's."""
        self.stand_ins: dict[int, int] = {}
        """Maps of stand-ins by number of the object they stand for."""
        self.linker = link.facts[RUNTIME].linker
        self.debug = find_debug(link, memory)
        self.every = self._assign(shown, self.debug)
        self.root = self.map_of[link.root.number]
        self.fields = self._fields()
        opens = any(namespace.opens for namespace in link.namespaces)
        opener = find_openers(self.linker, memory).word if opens else None
        self.lists = self._lists()
        lock = find_lock(self.words, self.lists) if opens else 0
        self.spaces = Spaces(self.lists.start, lock, self.fields, opener)

    def run(self) -> Spaces:
        """Every namespace, then the program's lists."""
        order = self._order()
        number = 0
        for namespace in self.link.namespaces[1:]:
            for dso in namespace.members:
                if dso.namespace is namespace:
                    self._restore(dso)
            if namespace.opens:
                number += 1
                self._separate(namespace, number)
            else:
                self._group(namespace, {})
        self.words.put(self.lists.count, 1 + number)
        for dso_number, at in self.stand_ins.items():
            # It has a soname and no file: debuggers pass over what has no name.
            self.words.put(at + NAME, self._string(""))
            self._needs(at, [at], [at, self.map_of[dso_number]])
        for dso in self.link.objects:
            if dso.identity is None and dso.number in self.map_of:
                self.words.put(self.map_of[dso.number] + NAME, self._string(""))
        self._program(order)
        self._tell_debuggers()
        return self.spaces

    # -- what is there ---------------------------------------------------------------------------

    def _assign(self, shown: Shown, debug: int) -> list[int]:
        """Tell maps by the address of their dynamic section; gives all of them."""
        objects = {d.bias + d.file.dynamic_vaddr: d for d in self.link.objects
                   if d.file.dynamic_vaddr is not None}  # fmt: skip
        stand_ins = {_dynamic(s): s.stands_for for s in shown.shells if s.stands_for is not None}
        every = []
        at = self.words.get(debug + 8) or 0
        while at:
            every.append(at)
            dynamic = self.words.get(at + DYNAMIC) or 0
            if dynamic in objects:
                self.map_of[objects[dynamic].number] = at
            elif dynamic in stand_ins:
                self.stand_ins[stand_ins[dynamic].number] = at
            at = self.words.get(at + NEXT) or 0
        return every

    def _fields(self) -> Fields:
        # The linker's own map is unlike the others.
        known = [d for d in self.link.objects if d.number in self.map_of
                 and d.namespace is self.link.main and d is not self.linker]  # fmt: skip
        maps = [self.map_of[dso.number] for dso in known]
        return find_fields(self.words, maps, [dso.file for dso in known], self.every)

    def _lists(self) -> Lists:
        table = self.link.definition(self.linker, "_rtld_global", "GLIBC_PRIVATE")
        return find_lists(self.words, table.address, self.root, len(self.every),
                          self.root + self.fields.searchlist)  # fmt: skip

    # -- one namespace ---------------------------------------------------------------------------

    def _restore(self, dso: Dso) -> None:
        """An object's own name, dynamic entries and hash table."""
        at, words = self.map_of[dso.number], self.words
        opens = dso.namespace.opens
        words.put(at + NAME, self._string(dso.path))
        if self.origin is not None:
            words.put(at + self.origin, self._string(os.path.dirname(dso.path)))
        libname = words.get(at + LIBNAME)
        assert libname, "every map has a name"
        # In the program's list nobody shall find it by its soname.
        name = (dso.file.soname or os.path.basename(dso.path)) if opens else dso.path
        words.put(libname, self._string(name))
        for entry in hidden_entries(dso):
            words.put(entry.address, entry.tag)
            words.put(entry.address + 8, entry.value)
            if entry.tag == DT.NEEDED or (entry.tag == DT.SONAME and not opens):
                continue
            if entry.tag in self.fields.info:
                words.put(at + self.fields.info[entry.tag], entry.address)
        table = HashTable.of(dso.file, words.get(at + ADDR) or 0)
        if table is not None:
            for i in range(3):
                words.put_half(at + self.fields.buckets + 4 * i, table.numbers[i])
                words.put(at + self.fields.tables + 8 * i, table.tables[i])

    def _group(self, namespace: Namespace, proxies: dict[int, int]) -> None:
        """What is looked up from where, and what needs what: proxies stand for guests."""
        first = self.map_of[namespace.members[0].number]
        for dso in namespace.members:
            if dso.namespace is not namespace:
                continue
            at = self.map_of[dso.number]
            scope = self.words.get(at + self.fields.scope)
            assert scope, "every map has a scope"
            # With DT_SYMBOLIC its own list comes first.
            if self.words.get(scope) != self.root + self.fields.searchlist:
                scope += 8
            self.words.put(scope, first + self.fields.searchlist)
            # RTLD_NEXT begins in the list of who loaded it (elf/dl-sym.c).
            self.words.put(at + self.fields.loader, 0 if at == first else first)
            needed = [d.number for d in dso.dependencies if d is not dso]
            maps = [at, *(self.map_of[n] for n in needed)]
            self._list(at, maps)
            self._needs(at, [at, *(proxies.get(n, self.map_of[n]) for n in needed)], maps)
        self._list(first, [self.map_of[dso.number] for dso in namespace.members])

    def _separate(self, namespace: Namespace, number: int) -> None:
        """Make it one of ld.so's."""
        if number >= MOST_NAMESPACES:
            raise Refusal(
                "adopt/many-namespaces",
                f"`{namespace}` is the {number}th namespace that opens libraries",
                help=f"ld.so has room for {MOST_NAMESPACES - 1} of them: opens = false for those "
                "that need not",
            )
        words, lists = self.words, self.lists.at(number)
        own = [self.map_of[d.number] for d in namespace.members if d.namespace is namespace]
        guests = [d for d in namespace.members if d.namespace is not namespace]
        proxies = {d.number: self._proxy(self.map_of[d.number], own[0]) for d in guests}
        for at in own:
            before, behind = words.get(at + PREVIOUS) or 0, words.get(at + NEXT) or 0
            words.put(before + NEXT, behind)
            if behind:
                words.put(behind + PREVIOUS, before)
            self.every.remove(at)
        self._group(namespace, proxies)
        maps = [*own, *proxies.values()]
        for before, at, behind in zip([0, *maps], maps, [*maps[1:], 0], strict=False):
            self._put(at + PREVIOUS, before)
            self._put(at + NEXT, behind)
            self._put(at + NAMESPACE, number)
        words.put(lists, own[0])
        words.put_half(lists + 8, len(maps))
        words.put(lists + 16, own[0] + self.fields.searchlist)
        self.spaces.spaces.append(Space(lists, number, namespace.root, namespace.lent))

    def _proxy(self, real: int, first: int) -> int:
        """A copy of a map, for the namespace of map ``first``; words that lead into the map lead
        into the copy."""
        words = self.words.array(real, SIZE // 8)
        assert words is not None, "the linker's maps are in its private memory"
        at = self.data.end
        copied = [w - real + at if real <= w < real + SIZE else w for w in words]
        copied[REAL // 8] = real
        self.data.add(b"".join(word.to_bytes(8, "little") for word in copied))
        self._put(at + self.fields.initfini, self._array([at, 0]))
        scope = self.data.add(bytes(32))  # of four entries, as l_scope_mem is
        self._put(scope, first + self.fields.searchlist)
        self._put(at + self.fields.scope, scope)
        return at

    def _tell_debuggers(self) -> None:
        """Lead them from the program's list to those of the namespaces, as _dl_debug_initialize
        does (struct r_debug_extended of <link.h>, since glibc 2.35)."""
        if not any(version.name == "GLIBC_2.35" for version in self.linker.file.verdefs):
            return
        words, before = self.words, self.debug
        for space in self.spaces.spaces:
            at = space.lists + self.lists.stride - _R_DEBUG
            words.put(at + 8, words.get(space.lists) or 0)
            for offset in (16, 24, 32):
                words.put(at + offset, words.get(self.debug + offset) or 0)
            words.put(before + _R_NEXT, at)
            for extended in (self.debug, at):
                words.put(extended, 2)
            before = at

    # -- the program -----------------------------------------------------------------------------

    def _program(self, order: Sequence[int]) -> None:
        members = [self._seen_by_main(dso) for dso in self.link.main.members]
        count = len(members)
        # One number counts both (_dl_init); what is looked up twice is found the first time.
        members += [members[-1]] * (len(order) - count)
        self._list(self.root, members)
        self.words.put(self.root + self.fields.initfini, self._array([*order, 0]))
        stays = [at for at in order if at in self.every]
        self.spaces.at_entry += [
            (self.root + self.fields.searchlist + 8, count),
            (self.root + self.fields.initfini, self._array([*stays, 0])),
        ]
        self.words.put_half(self.lists.start + 8, len(self.every))

    def _seen_by_main(self, dso: Dso) -> int:
        inside = dso.namespace is self.link.main
        return self.map_of[dso.number] if inside else self.stand_ins[dso.number]

    def _order(self) -> list[int]:
        """The order of constructors, the last one first, as in the program's l_initfini: that of
        ld.so, with each other object before whoever has it."""
        array = self.words.get(self.root + self.fields.initfini) or 0
        count = (self.words.get(self.root + self.fields.searchlist + 8) or 0) % 2**32
        known = self.words.array(array, count) or []
        objects = {at: self.link.objects[n] for n, at in self.map_of.items()}
        others = {self.map_of[dso.number] for dso in self.link.apart}
        done: list[int] = []
        begun: set[int] = set()

        def bring(at: int) -> None:
            if at in begun:
                return
            begun.add(at)
            for needed in objects[at].dependencies if at in objects else ():
                other = self.map_of.get(needed.number)
                # What ld.so has in a cycle stays where it is.
                if other is not None and (at in others or other in others):
                    bring(other)
            done.append(at)

        for at in [*(m for m in reversed(known) if m not in others), *reversed(known)]:
            bring(at)
        return done[::-1]

    # -- memory ----------------------------------------------------------------------------------

    def _needs(self, at: int, now: Sequence[int], at_end: Sequence[int]) -> None:
        """What an object needs, for who closes others, and for the order of destructors."""
        self.words.put(at + self.fields.initfini, self._array([*now, 0]))
        self.spaces.at_end.append((at + self.fields.initfini, self._array([*at_end, 0])))

    def _list(self, at: int, maps: Sequence[int]) -> None:
        self.words.put(at + self.fields.searchlist, self._array(maps))
        self.words.put_half(at + self.fields.searchlist + 8, len(maps))

    def _put(self, address: int, value: int) -> None:
        """Write a word of the adopted memory, or of ours."""
        if self.data.start <= address < self.data.end:
            at = address - self.data.start
            self.data.content[at : at + 8] = value.to_bytes(8, "little")
        else:
            self.words.put(address, value)

    def _array(self, words: Iterable[int]) -> int:
        return self.code.add(b"".join(word.to_bytes(8, "little") for word in words))

    def _string(self, text: str) -> int:
        return self.code.add(text.encode(errors="surrogateescape") + b"\0")


def _dynamic(shell: Shell) -> int:
    file = ElfFile.parse(shell.content, shell.placement.path)
    return shell.placement.bias + (file.dynamic_vaddr or 0)
