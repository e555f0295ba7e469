"""The names that calls of dlopen and dlsym are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from spidl.analyse import Summary, Told
from spidl.analyse.numbers import TAKES_NAME
from spidl.modules.seccomp.plugins import LOOKERS, OPENERS
from tests.analyse.building import LIBRARY, analysed

_DECLARED = """
void *dlopen(const char *, int);
void *dlsym(void *, const char *);
extern void *handle;
void *handle;
"""


def _names(
    summary: Summary, function: str, export: str | None = None
) -> tuple[frozenset[str], bool]:
    """What an export, or everything, tells a function of the dlopen family; whether also what is
    computed."""
    at = next(at for at, (name, _) in enumerate(summary.imports) if name == function)
    classes = list(summary.classes)
    if export is not None:
        classes = [classes[n] for (name, _), n in summary.exports.items() if name == export]
    found: set[str | None] = set()
    for member in classes:
        told = {summary.told[i].name for i in member.told if summary.told[i].function == at}
        found |= told or ({None} if at in member.imports else set())
    return frozenset(name for name in found if name is not None), None in found


@pytest.mark.parametrize("flags", [(), ("-fno-plt",), ("-O0",)])
def test_constant_names(tmp_path: Path, flags: tuple[str, ...]) -> None:
    source = (
        _DECLARED
        + """
        void *one(void) { return dlopen("libone.so.1", 2); }
        void *two(int x) { return dlsym(handle, x ? "second" : "third"); }
        void *own(void) { return dlopen(0, 2); }
    """
    )
    summary = analysed(tmp_path, source, *LIBRARY, *flags)
    assert _names(summary, "dlopen", "one") == ({"libone.so.1"}, False)
    assert _names(summary, "dlsym", "two") == ({"second", "third"}, False)
    assert _names(summary, "dlopen", "own") == ({""}, False)
    assert _names(summary, "dlopen") == ({"", "libone.so.1"}, False)
    assert _names(summary, "dlsym", "one") == (frozenset(), False)


def test_a_wrapper_is_followed_into_its_callers(tmp_path: Path) -> None:
    source = (
        _DECLARED
        + """
        static __attribute__((noinline)) void *load(const char *name) {
            return dlopen(name, 2) ? handle : 0;
        }
        void *one(void) { return load("libone.so.1"); }
        void *two(void) { handle = load("libtwo.so.2"); return handle; }
    """
    )
    summary = analysed(tmp_path, source)
    assert _names(summary, "dlopen", "one") == ({"libone.so.1"}, False)
    assert _names(summary, "dlopen") == ({"libone.so.1", "libtwo.so.2"}, False)


def test_constant_pointers(tmp_path: Path) -> None:
    """A pointer that nobody writes to: after relocation its page is read-only."""
    source = (
        _DECLARED
        + """
        extern const char *const name __attribute__((visibility("hidden")));
        asm(".pushsection .data.rel.ro, \\"aw\\"; name: .quad text; .popsection;"
            ".pushsection .rodata; text: .string \\"fixed\\"; .popsection");
        void *one(void) { return dlsym(handle, name); }
    """
    )
    summary = analysed(tmp_path, source, *LIBRARY, "-Wl,-z,relro,-z,now")
    assert _names(summary, "dlsym", "one") == ({"fixed"}, False)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("void *one(const char *s) { return dlsym(handle, s); }", id="exported"),
        pytest.param("char s[9] = \"dup\"; void *one(void) { return dlsym(handle, s); }",
                     id="data"),
        pytest.param("const char *s = \"dup\"; void *one(void) { return dlsym(handle, s); }",
                     id="variable"),
        pytest.param("void *one(void) { char s[4]; s[0] = handle ? 'a' : 'b'; s[1] = 0;"
                     " return dlsym(handle, s); }", id="stack"),
        pytest.param("void *(*one(void))(void *, const char *) { return dlsym; }", id="address"),
        pytest.param("static void *load(const char *s) { return dlsym(handle, s); }"
                     "void *(*const table[])(const char *) = { load };"
                     "void *one(int i) { return table[i](\"dup\"); }", id="wrapper-in-data"),
    ],
)  # fmt: skip
def test_computed_names(tmp_path: Path, body: str) -> None:
    summary = analysed(tmp_path, _DECLARED + body)
    assert _names(summary, "dlsym")[1]


def test_a_pointer_to_the_function_in_data(tmp_path: Path) -> None:
    """Who reads the pointer can ask for anything."""
    source = _DECLARED + "void *(*const table[])(void *, const char *) = { dlsym };"
    summary = analysed(tmp_path, source)
    told = [summary.told[at] for at in summary.classes[summary.always].told]
    assert told == [Told(summary.imports.index(("dlsym", None)), None)]


def test_json_and_bytes(tmp_path: Path) -> None:
    source = _DECLARED + 'void *one(char *s) { dlopen(s, 2); return dlopen("libone.so.1", 2); }'
    summary = analysed(tmp_path, source)
    again = Summary.from_bytes(summary.to_bytes())
    assert again == summary
    assert again.told == summary.told
    assert _names(again, "dlopen") == ({"libone.so.1"}, True)
    told = summary.to_json()["classes"][summary.exports["one", None]]["told"]
    assert told == [["dlopen", "libone.so.1"], ["dlopen", None]]


def test_an_exported_wrapper_that_others_are_known_to_call(tmp_path: Path) -> None:
    """Who imports it says itself what it tells it; any other exported wrapper may be told all."""
    source = (
        _DECLARED
        + """
        void *uv_dlopen(const char *name) { return dlopen(name, 2) ? handle : 0; }
        void *one(void) { return uv_dlopen("libone.so.1"); }
    """
    )
    summary = analysed(tmp_path, source)
    assert _names(summary, "dlopen", "one") == ({"libone.so.1"}, False)
    assert _names(summary, "uv_dlopen", "one") == ({"libone.so.1"}, False)
    renamed = analysed(tmp_path, source.replace("uv_dlopen", "open_it"))
    assert _names(renamed, "dlopen", "one") == ({"libone.so.1"}, True)


def test_all_functions_that_are_followed_are_asked_about() -> None:
    """A name that an exported wrapper is told counts at its callers, so none may be forgotten."""
    assert set(TAKES_NAME) <= {*OPENERS, *LOOKERS}
