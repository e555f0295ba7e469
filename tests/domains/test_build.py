"""`spidl domain build`: directives, checks at build time, binders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spidl import domains
from spidl.cli.main import main
from spidl.domains import Domain, Identity, Interface, Linker, NameServer
from spidl.domains.binder import Binder, bind_together
from spidl.domains.build import build
from spidl.domains.directives import read_directives
from spidl.testing import expect

from .conftest import EXAMPLES, Workshop, built, call, load_module

PLAIN = """
[domain]
name = "plain"
modules = ["plain.c"]
exports = ["plain.h"]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "domain.toml").write_text(PLAIN)
    (tmp_path / "plain.c").write_text('#include "plain.h"\nint twice(int n) { return 2 * n; }\n')
    (tmp_path / "plain.h").write_text("int twice(int n); /* twice */\n")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "table"),
    [("domain.toml", "[domain]"), ("spidl.toml", "[domain]"),
     ("pyproject.toml", "[tool.spidl.domain]")],
)  # fmt: skip
def test_where_directives_are(folder: Path, file: str, table: str) -> None:
    (folder / "domain.toml").unlink()
    (folder / file).write_text(PLAIN.replace("[domain]", table))
    made = build(str(folder))
    assert [Path(path).name for path in made] == ["plain.so", "plain_binder.py"]
    names, who = NameServer(), Identity.create("who")
    module = load_module(Path(made[1]))
    domain = module.bind(names, who)
    assert call(domain, "int twice(int n);", 4) == 8
    shown = module.export(names, who, domain)
    assert names.query("plain") is shown
    assert shown.exports == {"twice"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[domain]\nmodules = ['plain.c']", "`name`"),
        ("[domain]\nname = 'a/b'\nmodules = ['plain.c']", "a/b"),
        ("[domain]\nname = 'p'\nmodules = []", "`modules`"),
        ("[domain]\nname = 'p'\nmodules = 'plain.c'", "`modules`"),
        ("[domain]\nname = 'p'\nmodules = ['plain.c']\nlink = 'other'", "dynamic or static"),
        ("[domain]\nname = 'p'\nmodules = ['plain.c']\nimport = {}", "`import`"),
        ("[domain]\nname = 'p'\nmodules = ['plain.c']\nimports = ['x']", "`imports`"),
        ("domain = 3", "no table"),
        ("[domain", "Expected"),
    ],
)
def test_wrong_directives(folder: Path, text: str, says: str) -> None:
    (folder / "domain.toml").write_text(text)
    with expect("domain/directive") as error:
        read_directives(str(folder))
    assert says in error.caught.message


def test_no_directives(tmp_path: Path) -> None:
    with expect("domain/no-file"):
        build(str(tmp_path))
    with expect("domain/no-file"):
        Interface.read(tmp_path / "absent.h")


def test_what_is_not_imported_is_found_when_it_is_built(folder: Path) -> None:
    (folder / "plain.c").write_text(
        'int puts(const char *);\nint twice(int n) { return puts(""); }'
    )
    with expect("domain/not-imported") as error:
        build(str(folder))
    assert "puts" in error.caught.message
    (folder / "stdio.h").write_text("int puts(const char *text);")
    with (folder / "domain.toml").open("a") as file:
        file.write('[domain.imports]\nOutput = "stdio.h"\n')
    assert build(str(folder))


def test_what_is_declared_must_be_defined(folder: Path) -> None:
    (folder / "plain.h").write_text("int twice(int n); int thrice(int n);")
    with expect("domain/not-exported"):
        build(str(folder))


def test_what_the_compiler_says_is_shown(folder: Path) -> None:
    (folder / "plain.c").write_text("int twice(int n) { return n *; }")
    with expect("domain/compile") as error:
        build(str(folder))
    assert any("plain.c:1" in note for note in error.caught.notes)


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "out"
    assert main(["domain", "build", str(folder), "-o", str(output), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["made"]
    assert made == [str(output / "plain.so"), str(output / "plain_binder.py")]
    assert main(["domain", "build", str(folder), "--link", "static"]) == 0
    assert capsys.readouterr().out == f"{folder / 'build' / 'plain.o'}\n"
    assert main(["domain", "build", str(folder / "absent")]) == 2
    assert "domain/no-file" in capsys.readouterr().err


def test_a_static_object_is_a_domain_too(folder: Path) -> None:
    """What was joined statically is an object file like any other."""
    (folder / "domain.toml").write_text(PLAIN + 'flags = ["-O1", "-fPIC"]\n')
    (made,) = build(str(folder), link="static")
    domain = Domain.create(made)
    domains.initialize(domain)
    assert call(domain, "int twice(int n);", 21) == 42


def test_domains_that_import_each_other_are_bound_together(workshop: Workshop) -> None:
    even = Binder(
        "Even",
        workshop.object("even", "int odd(int n); int even(int n) { return !n || odd(n - 1); }"),
        ("Odd",), (Interface("int even(int n);", "Even"),), (domains.RUNTIME,),
    )  # fmt: skip
    odd = Binder(
        "Odd",
        workshop.object("odd", "int even(int n); int odd(int n) { return n && even(n - 1); }"),
        ("Even",), (Interface("int odd(int n);", "Odd"),), (domains.RUNTIME,),
    )  # fmt: skip
    names, who = NameServer(), Identity.create("who")
    with expect("domain/denied"):
        even.bind(names, who)
    whole = bind_together([even, odd], names, who)
    assert whole.exports == {"even", "odd"}
    assert call(whole, "int odd(int n);", 7) == 1


def test_an_extension_that_may_use_the_linker(tmp_path: Path) -> None:
    """SPL, built from directives, registers itself when it starts."""
    (tmp_path / "domain.toml").write_text(
        f'[domain]\nname = "SPL"\nmodules = ["{EXAMPLES}/spl/SPL.c"]\n'
        f'exports = ["{EXAMPLES}/spl/SPL.h"]\n[domain.imports]\nDomain = "<Domain.h>"\n'
    )
    module = load_module(Path(build(str(tmp_path))[1]))
    names, who = NameServer(), Identity.create("SPL")
    with expect("domain/denied"):
        module.bind(names, who)
    module.bind(names, who, Linker(names, who))
    assert call(names.query("SPL"), "int SPL_High(void);") == 0


def test_a_binder_without_exports_shows_nothing(workshop: Workshop) -> None:
    binder = Binder("none", workshop.object("none", "int f(void) { return 1; }"))
    domain = binder.bind(NameServer(), Identity.create("who"))
    with expect("domain/nothing-exported"):
        binder.export(NameServer(), Identity.create("who"), domain)


def test_an_output_that_cannot_be_written(folder: Path) -> None:
    (folder / "file").write_text("")
    with expect("domain/cannot-write"):
        build(str(folder), str(folder / "file" / "out"))


def test_the_examples_are_built_from_what_they_import(tmp_path: Path) -> None:
    module = built("udpmcast", tmp_path)
    assert module.binder.imports == ("UDP-extension",)
    assert set(read_directives(str(EXAMPLES / "udpmcast")).imports) == {
        ("UDP-extension", str(EXAMPLES / "udp"))
    }
