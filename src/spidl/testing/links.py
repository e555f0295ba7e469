"""Links in memory: nothing is read from a file, nothing is started.

link = memory_link(program(["f"], needed=["libf.so"]), {"libf.so": content}, [MyModule()])
link.run()
assert binding(link, PROGRAM, "f").provider is link.known("libf.so")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from spidl.diagnostics import Diagnostic, LinkError
from spidl.elf.build import Define, Relocate, Undefined, build_dso
from spidl.elf.constants import STT, R
from spidl.link.dso import Dso, MemoryObject, Need
from spidl.link.environment import Environment
from spidl.link.link import Link
from spidl.link.module import Module
from spidl.link.phases import POST_COLLECT
from spidl.link.pipeline import Pipeline
from spidl.modules.gnu import bring_recipes
from spidl.modules.gnu.symbols import add_versions, check_versions
from spidl.modules.sysv import SystemV

PROGRAM = "program"
"""The name of the program in a `memory_link`."""


class Versions(Module):
    """The GNU symbol rules for objects that have no ld.so: versions and GNU relocation types."""

    after = ("sysv",)

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.weak(POST_COLLECT, bring_recipes)
        pipeline.weak(POST_COLLECT, check_versions)
        if pipeline.exporter is not None:
            unversioned = pipeline.exporter[1]
            pipeline.exports(lambda dso, link: add_versions(dso, unversioned(dso, link)))


class Shelf(Module):
    """Finds needed objects among those in memory; the rest are not found."""

    libraries: Mapping[str, bytes] = field(default_factory=dict)

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.finder(self.find)

    def find(self, name: str, dso: Dso, link: Link) -> Need | MemoryObject:
        content = self.libraries.get(name)
        if content is None:
            return Need(name, found="searched: the objects in memory")
        return MemoryObject(name, content, "DT_NEEDED")


def program(
    undefined: Iterable[str | Undefined] = (), *, needed: Sequence[str] = (), plt: bool = False
) -> bytes:
    """A program without a libc that refers to symbols, each from a word of its own.

    The words are in the object ``slots``, 8 bytes each in the order given: R_X86_64_64, or
    R_X86_64_JUMP_SLOT in DT_JMPREL with ``plt``.
    """
    asked = [Undefined(item) if isinstance(item, str) else item for item in undefined]
    relocations = [
        Relocate("slots", R.JUMP_SLOT if plt else R.R64, symbol=item.name, offset=8 * i, plt=plt)
        for i, item in enumerate(asked)
    ]
    return build_dso(
        None,
        {
            "_start": bytes.fromhex("0f0b"),  # ud2: nothing starts it
            "slots": Define(bytes(8 * max(1, len(asked))), STT.OBJECT),
        },
        needed=needed,
        undefined=asked,
        relocations=relocations,
        interp="/no/interpreter",  # without one it would be static, and relocate itself
        entry="_start",
    )


def memory_link(
    program: bytes,
    libraries: Mapping[str, bytes] | None = None,
    modules: Sequence[Module] = (),
    *,
    environment: Environment | None = None,
) -> Link:
    """A link of a program in memory, no phase run yet.

    ``libraries`` maps DT_NEEDED names to ELF files.  The modules are sysv, the GNU symbol rules,
    the finder of those libraries and then ``modules``.
    """
    pipeline = [SystemV(), Versions(), Shelf(libraries or {}), *modules]
    return Link(MemoryObject(PROGRAM, program, "the program"), pipeline, environment)


@dataclass(frozen=True, slots=True)
class Bound:
    """What one reference of an object is bound to."""

    provider: Dso | None
    symbol: int
    """Index in the provider's symbol table, -1 where a resolver gave an address."""
    value: int
    owner: str | None
    """The module whose resolver answered."""


def binding(link: Link, asker: str, name: str) -> Bound:
    """What an object's reference to a name is bound to; LookupError if it has none."""
    for bindings in link.bindings:
        if bindings.requests.dso.name != asker:
            continue
        for row in range(len(bindings)):
            if bindings.requests.name(row) == name:
                number, owner = int(bindings.provider[row]), int(bindings.owner[row])
                return Bound(
                    None if number < 0 else link.objects[number],
                    int(bindings.symbol[row]),
                    int(bindings.value[row]),
                    None if owner < 0 else bindings.modules[owner],
                )
    raise LookupError(f"{asker} has no reference to {name}")


def word(link: Link, dso: Dso, symbol: str, offset: int = 0) -> int:
    """The word ``offset`` bytes into an object's symbol, as written so far."""
    address = link.definition(dso, symbol).address + offset
    return int(link.space.memory.read_words(np.array([address], np.uint64))[0])


@dataclass(slots=True)
class Expected:
    """What `expect` caught; ``diagnostic`` is there once the block is done."""

    code: str
    caught: Diagnostic | None = None

    @property
    def diagnostic(self) -> Diagnostic:
        assert self.caught is not None, "read it behind the block"
        return self.caught


@contextmanager
def expect(code: str) -> Iterator[Expected]:
    """The block must fail with this diagnostic: no other, and not none.

    Raises AssertionError otherwise; other exceptions pass.
    """
    expected = Expected(code)
    try:
        yield expected
    except LinkError as error:
        expected.caught = error.diagnostic
        if error.code != code:
            raise AssertionError(f"expected {code}, got another error:\n{error}") from error
    else:
        raise AssertionError(f"expected {code}, but nothing failed")
