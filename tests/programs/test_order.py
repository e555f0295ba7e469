"""The order of constructors and destructors, and what they are called with."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Same, Workshop


def make(workshop: Workshop, folder: str, flags: dict[str, tuple[str, ...]]) -> Path:
    """main needs left and right; both need base; base and ring need each other."""

    def library(name: str, *needs: str) -> str:
        path = f"{folder}/lib{name}.so"
        own = (f"-DNAME={name}", f"-Wl,-h,lib{name}.so", *flags.get(name, ()))
        workshop.library(path, "order.c", *needs, flags=own)
        return path

    library("ring")
    base = library("base", f"{folder}/libring.so")
    ring = library("ring", base)
    left, right = library("left", base), library("right", base, ring)
    return workshop.program(
        f"{folder}/order", "order.c", left, right, flags=("-DNAME=main", "-DPROGRAM")
    )


@pytest.mark.parametrize(
    ("folder", "flags"),
    [
        ("plain", {}),
        ("initfirst", {"right": ("-Wl,-z,initfirst",)}),
        ("nodelete", {"left": ("-Wl,-z,nodelete",)}),
        ("interpose", {"right": ("-Wl,-z,interpose",)}),
        (
            "init-and-fini",
            {
                "base": ("-Wl,-init,init_function", "-Wl,-fini,fini_function"),
                "left": ("-Wl,-init,init_function", "-Wl,-fini,fini_function"),
            },
        ),
    ],
)
def test_order(
    same: Same, workshop: Workshop, folder: str, flags: dict[str, tuple[str, ...]]
) -> None:
    program = make(workshop, folder, flags)
    outcome = same([str(program), "an argument"])
    assert b"preinit, argc 2, argv 1, envp 1\n" in outcome.stdout
    assert b"base constructed, argc 2, argv 1, envp 1\n" in outcome.stdout


def test_order_without_environment(same: Same, workshop: Workshop) -> None:
    same([str(make(workshop, "bare", {}))], env={})


def test_hundreds_of_libraries(same: Same, workshop: Workshop) -> None:
    """300 libraries, a third of which need earlier ones."""
    names: list[str] = []
    for number in range(300):
        needs = [names[number // 2]] if number % 3 == 0 and names else []
        calls = (f"-DALSO_CALLS=value{number // 2}",) if needs else ()
        renamed = (f"-Dvalue=value{number}", f"-Dthrough=through{number}", f"-DVALUE={number}")
        path = f"many/libmany{number}.so"
        workshop.library(
            path, "value.c", *needs, flags=(*renamed, *calls, f"-Wl,-h,libmany{number}.so")
        )
        names.append(path)
    terms = "+".join(f"value{number}()" for number in range(300))
    declarations = "".join(f"int value{number}(void);" for number in range(300))
    main = workshop.text(
        "many_main.c",
        f'#include <stdio.h>\n{declarations} int main(void) {{ printf("%d\\n", {terms}); }}',
    )
    program = workshop.program("many/program", str(main), *names)
    same([str(program)], expect=f"{sum(range(300))}\n")
