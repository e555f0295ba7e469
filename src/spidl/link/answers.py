"""What a resolver answers: checked, and taken into the bindings."""

from __future__ import annotations

from spidl.diagnostics import LinkError, Place
from spidl.elf.constants import STT
from spidl.link.symbols import Bindings, Definition, SymbolRequest


def check_answer(answer: Definition, request: SymbolRequest, module: str) -> None:
    if not isinstance(answer, Definition):
        raise LinkError(
            "module/wrong-result",
            f"a resolver of module `{module}` gave {type(answer).__name__}, not Definition",
            place=Place(request.dso.path),
            help="a resolver gives a spidl.api.Definition, or None for `not mine`",
        )
    if answer.type == STT.GNU_IFUNC:
        raise LinkError(
            "relocate/indirect-answer",
            f"module `{module}` answers `{request.name}` with the indirect function "
            f"`{answer.name}`, whose address only a running process knows",
            place=Place(request.dso.path),
            help="answer with an ordinary function; it may call the indirect one",
        )


def take_answer(bindings: Bindings, row: int, answer: Definition, module: str) -> None:
    """Bind a row to a resolver's answer."""
    if module not in bindings.modules:
        bindings.modules.append(module)
    bindings.alone[row] = bindings.provider[row] < 0
    bindings.provider[row] = -1 if answer.dso is None else answer.dso.number
    bindings.symbol[row] = -1
    bindings.value[row] = answer.address & (2**64 - 1)
    bindings.size[row] = answer.size
    bindings.type[row] = answer.type
    bindings.defined[row] = True
    bindings.owner[row] = bindings.modules.index(module)
