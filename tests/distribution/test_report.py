"""The figures of a store, and the page about them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from spidl.analyse import Class, Summary
from spidl.analyse.names import number_of
from spidl.diagnostics import Diagnostic
from spidl.distribution.figures import Figures, read_figures
from spidl.distribution.report import render
from spidl.distribution.store import Store
from spidl.distribution.values import Outcome, Unit

READ, WRITE, PTRACE, BPF = 0, 1, 101, 321
EVIL = '<script>alert("&")</script>\x1b'


def put(
    store: Store, package: str, path: str, soname: str, needed: tuple[str, ...],
    classes: tuple[Class, ...], imports: tuple[str, ...] = (), exports: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """A file whose class 0 is what always runs, 1 the entry of a program; exports lead to 1 on."""
    keys = {(name, None): at for at, name in enumerate(exports, start=1)}
    summary = Summary(path, soname, needed, tuple((name, None) for name in imports), classes, 0,
                      None if soname else 1, keys, {})  # fmt: skip
    store.put(Outcome(path, 1, summary.to_bytes(), 0.5))
    store.add("/", [Unit(package, path, path, soname, (), not soname, (), path, 1)])


def makes(*calls: int, imports: tuple[int, ...] = (), unknown: bool = False) -> Class:
    return Class(frozenset(calls), frozenset(imports), unknown=unknown)


@pytest.fixture
def figures(tmp_path: Path) -> Figures:
    with Store(str(tmp_path / "s.db")) as store:
        put(store, "libc6", "/usr/lib/libc.so.6", "libc.so.6", (),
            (makes(READ), makes(WRITE)), exports=("write",))  # fmt: skip
        put(store, "libx", "/usr/lib/libx.so.1", "libx.so.1", ("libc.so.6",),
            (makes(PTRACE), makes(imports=(0,))), ("write",), ("x",))  # fmt: skip
        put(store, "small", "/usr/bin/small", "", ("libc.so.6",), (makes(), makes()))
        put(store, "big", "/usr/bin/big", "", ("libx.so.1",),
            (makes(), makes(imports=(0,))), ("x",))  # fmt: skip
        put(store, EVIL, f"/usr/bin/{EVIL}", "", ("libgone.so",),
            (makes(), makes(BPF, unknown=True)))  # fmt: skip
        store.put(Outcome.failed("bad", 1, Diagnostic("parse/truncated", f"too short {EVIL}")))
        store.add("/", [Unit("bad", "/usr/bin/bad", "bad", "", (), True, (), "/x", 1)])
        return read_figures(store, lambda done, total: None)


def test_what_programs_need(figures: Figures) -> None:
    found = {program.package: program for program in figures.programs}
    assert found["small"].calls == {READ}
    assert found["big"].calls == {READ, WRITE, PTRACE}
    assert found["big"].objects == 3
    assert found[EVIL.replace("\x1b", "\x1b")].missing == ("libgone.so",)
    assert [program.unknown for program in figures.programs].count(True) == 1


def test_what_libraries_bring_beyond_libc(figures: Figures) -> None:
    found = {library.name: library for library in figures.libraries}
    assert found["libx.so.1"].linked == {PTRACE}
    assert found["libx.so.1"].used == {PTRACE, WRITE}
    assert found["libx.so.1"].users == 1
    assert found["libc.so.6"].users == 2


def test_packages_and_calls(figures: Figures) -> None:
    found = {package.name: package for package in figures.packages}
    assert (found["big"].programs, len(found["big"].calls)) == (1, 3)
    assert (found["libx"].programs, found["libx"].calls) == (0, {PTRACE, WRITE})
    assert found[EVIL].missing
    assert figures.calls["read"] == 2
    assert figures.calls["bpf"] == 1
    assert figures.calls["mount"] == 0
    assert [(f.name, f.code) for f in figures.failures] == [("/usr/bin/bad", "parse/truncated")]


def test_json_has_names_and_everything(figures: Figures) -> None:
    told = json.loads(json.dumps(figures.to_json()))
    programs = {program["package"]: program for program in told["programs"]}
    assert programs["big"]["calls"] == ["read", "write", "ptrace"]
    assert number_of("ptrace") == PTRACE
    assert {package["name"] for package in told["packages"]} >= {"big", "small", "libx"}


class _Page(HTMLParser):
    """Checks that tags close in order, and collects what matters."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_names_do_no_harm(figures: Figures) -> None:
    page = render(figures, f"System calls of {EVIL}")
    parser = _Page()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    assert "script" not in parser.tags
    assert page.isascii() or "\x1b" not in page
    text = " ".join(parser.text)
    assert "libgone.so" in text
    assert "parse/truncated" in text
    for package in figures.packages:
        assert package.name.replace("\x1b", "\\x1b") in text
    assert {"svg", "table"} <= set(parser.tags)


def test_a_store_without_programs_has_a_page_too(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s.db")) as store:
        found = read_figures(store, lambda done, total: None)
    parser = _Page()
    parser.feed(render(found, "nothing"))
    assert parser.open == []


def test_a_damaged_summary_counts_as_missing(tmp_path: Path) -> None:
    with Store(str(tmp_path / "s.db")) as store:
        put(store, "p", "/usr/bin/p", "", ("liba.so",), (makes(), makes(READ)))
        store.put(Outcome("a", 1, b"damaged"))
        store.add("/", [Unit("a", "/usr/lib/liba.so", "a", "liba.so", (), False, (), "/x", 1)])
        found = read_figures(store, lambda done, total: None)
    assert [program.missing for program in found.programs] == [("liba.so",)]
