"""Thread-local storage in all access models, in threads, after fork and in late libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Same, Workshop

MODELS = {
    "gd": ("-ftls-model=global-dynamic",),
    "ld": ("-ftls-model=local-dynamic",),
    "ie": ("-ftls-model=initial-exec",),
    "desc": ("-mtls-dialect=gnu2",),
}


@pytest.fixture(scope="module")
def program(workshop: Workshop) -> Path:
    for start, (name, flags) in enumerate(MODELS.items()):
        names = (f"-DPREFIX={name}", f"-DSTART={start * 10}")
        workshop.library(f"libtls_{name}.so", "tls_lib.c", flags=(*names, *flags))
        late = ("-DPREFIX=late", f"-DSTART={start * 10 + 5}")
        workshop.library(f"liblate_{name}.so", "tls_lib.c", flags=(*late, *flags))
    return workshop.program("tls", "tls_main.c", *(f"libtls_{name}.so" for name in MODELS))


@pytest.mark.parametrize("behaviour", ["main", "threads", "fork"])
def test_tls(same: Same, program: Path, behaviour: str) -> None:
    outcome = same([str(program), behaviour])
    assert b"same 1" in outcome.stdout
    assert b"same 0" not in outcome.stdout


@pytest.mark.parametrize("model", MODELS)
def test_late_library(same: Same, program: Path, model: str) -> None:
    outcome = same([str(program), "late", f"liblate_{model}.so"])
    assert b"dlsym gives this thread's 1" in outcome.stdout


def test_program_without_pie_uses_local_exec(same: Same, workshop: Workshop, program: Path) -> None:
    libraries = [f"libtls_{name}.so" for name in MODELS]
    fixed = workshop.program("tls-fixed", "tls_main.c", *libraries, flags=("-no-pie", "-fno-pie"))
    same([str(fixed), "threads"])
