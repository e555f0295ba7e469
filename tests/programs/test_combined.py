"""Modules together: the table in docs/modules.md is what happens."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from .capsules import Tree
from .conftest import Workshop
from .harness import Outcome, run, spidl

_DOCS = Path(__file__).parents[2] / "docs" / "modules.md"
_BASE = ["preload", "sysv", "gnu", "musl"]


def _table() -> list[str]:
    """The modules in the order of the table, without those of the default pipeline."""
    section = _DOCS.read_text().partition("## Built-in modules together")[2]
    rows = re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE)
    assert rows[: len(_BASE)] == _BASE
    return rows[len(_BASE) :]


MODULES = _table()


@pytest.fixture(scope="module")
def program(workshop: Workshop) -> Path:
    workshop.library("libpart.so", "combined_part.c")
    workshop.library("libhook.so", "combined_hook.c")
    return workshop.program("combined", "combined_main.c", "libpart.so")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    tree = Tree(tmp_path_factory.mktemp("tree"))
    tree.library("libpart.so", "combined_part.c")
    return tree


def settings(names: list[str], program: Path, tree: Tree, folder: Path) -> str:
    """A spidl.toml with these modules, in this order."""
    own = {
        "capsule": f'[modules.capsule.capsules.tree]\nroot = "{tree.root}"\n'
        'libraries = ["libpart.so"]\n',
        "hook": '[[modules.hook.rules]]\nsymbol = "getenv"\nfunction = "combined_getenv"\n'
        f'with = "{program.parent / "libhook.so"}"\n',
        "trace": f'[modules.trace]\noutput = "{folder / "trace"}"\n'
        '[[modules.trace.rules]]\nsymbol = "part"\n',
        "authorise": f'[modules.authorise]\nfile = "{folder / "policy.toml"}"\n',
        "seccomp": "",
    }
    assert own.keys() == set(MODULES), "docs/modules.md lists other modules"
    return f"pipeline = {json.dumps(_BASE + names)}\n" + "".join(own[name] for name in names)


def start(names: list[str], program: Path, tree: Tree, folder: Path) -> Outcome:
    """The program under these modules; its policy is learned with the others."""
    config = folder / "spidl.toml"
    if "authorise" in names:
        rest = [name for name in names if name not in ("authorise", "seccomp")]
        config.write_text(settings(rest, program, tree, folder))
        policy = folder / "policy.toml"
        learned = spidl(["policy", "learn", f"--config={config}", str(program), "-o", str(policy)])
        assert learned.status == 0, str(learned)
    config.write_text(settings(names, program, tree, folder))
    image = folder / "image"
    built = spidl(["build", f"--config={config}", str(program), "-o", str(image)])
    assert built.status == 0, str(built)
    return run([str(image)], env={"PATH": "/usr/bin:/bin"})


def expected(names: list[str], program: Path, tree: Tree) -> bytes:
    """What the program says where every module has done its part."""
    place = tree.libraries if "capsule" in names else program.parent
    lines = [
        "part 42", f"from {place / 'libpart.so'}",
        f"hook {'COMBINED' if 'hook' in names else 'none'}",
        f"seccomp {2 if 'seccomp' in names else 0}",
    ]  # fmt: skip
    return "".join(f"{line}\n" for line in lines).encode()


@pytest.mark.parametrize(
    "names",
    [*map(list, combinations(MODULES, 2)), MODULES, MODULES[::-1]],
    ids="+".join,
)
def test_modules_together(names: list[str], program: Path, tree: Tree, tmp_path: Path) -> None:
    outcome = start(names, program, tree, tmp_path)
    assert outcome == Outcome(expected(names, program, tree), b"", 0)
    if "trace" in names:
        assert re.search(r"^ +1 +combined +part +\S*libpart.so$",
                         (tmp_path / "trace").read_text(), re.MULTILINE)  # fmt: skip


def test_what_the_policy_has_not_learned_is_refused(
    program: Path, tree: Tree, tmp_path: Path
) -> None:
    """A policy of the program without the capsule does not allow the capsule's library."""
    config, policy = tmp_path / "spidl.toml", tmp_path / "policy.toml"
    assert spidl(["policy", "learn", str(program), "-o", str(policy)]).status == 0
    policy.write_text(policy.read_text().replace('"libpart.so"', '"libother.so"'))
    config.write_text(settings(["capsule", "authorise"], program, tree, tmp_path))
    built = spidl(["build", f"--config={config}", str(program), "-o", str(tmp_path / "image")])
    assert built.status != 0
    assert b"error[authorise/" in built.stderr
