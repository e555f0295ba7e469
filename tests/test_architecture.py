"""What ARCHITECTURE.md promises: who imports whom, small files, documented errors."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from spidl.link.phases import PHASES

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "spidl"

LONG_FILES: dict[str, str] = {}
"""Files of 400 lines and more, each with the reason."""

ALLOWED = {
    "elf": ("spidl.elf", "spidl.diagnostics"),
    "analyse": ("spidl.analyse", "spidl.elf", "spidl.files", "spidl.diagnostics"),
    "link": ("spidl.link", "spidl.elf", "spidl.diagnostics"),
    "targets": ("spidl.targets", "spidl.link", "spidl.elf", "spidl.files", "spidl.diagnostics"),
    "live": (
        "spidl.live", "spidl.link", "spidl.elf", "spidl.modules", "spidl.registry", "spidl.cache",
        "spidl.diagnostics",
    ),
    "domains": (
        "spidl.domains", "spidl.live", "spidl.link", "spidl.elf", "spidl.files",
        "spidl.diagnostics",
    ),
    "testing": (
        "spidl.testing", "spidl.modules", "spidl.link", "spidl.elf", "spidl.diagnostics",
    ),
    "distribution": (
        "spidl.distribution", "spidl.analyse", "spidl.elf", "spidl.files", "spidl.diagnostics",
    ),
    "cache": ("spidl.cache", "spidl.files", "spidl.diagnostics"),
}  # fmt: skip
"""What a package may import of Spidl; modules have a rule of their own."""


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return found


def python_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def test_the_rules_are_about_something() -> None:
    assert "spidl.api" in imports(PACKAGE / "modules" / "preload.py")
    assert len(python_files(PACKAGE)) > 50


def test_modules_import_only_the_public_api() -> None:
    for path in python_files(PACKAGE / "modules"):
        own = ".".join(("spidl.modules", path.relative_to(PACKAGE / "modules").parts[0]))
        for name in imports(path):
            top = name.partition(".")[0]
            fine = top in sys.stdlib_module_names or top == "numpy" or name == "spidl.api"
            fine = fine or name == own or name.startswith(f"{own}.")
            assert fine, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_what_lies_below_them(package: str) -> None:
    for path in python_files(PACKAGE / package):
        for name in imports(path):
            if name.partition(".")[0] != "spidl" or name == "spidl":
                continue
            fine = any(name == a or name.startswith(f"{a}.") for a in ALLOWED[package])
            assert fine, f"{path.relative_to(ROOT)} imports {name}"


def test_nothing_but_the_command_line_imports_it() -> None:
    for path in python_files(PACKAGE):
        if "cli" not in path.parts and path.name != "__main__.py":
            assert not any(name.startswith("spidl.cli") for name in imports(path)), path


def test_the_api_lists_what_it_imports() -> None:
    import spidl.api

    tree = ast.parse((PACKAGE / "api.py").read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == set(spidl.api.__all__)


def test_a_kept_link_is_found_without_numpy_and_the_linker() -> None:
    """All that `spidl keep` does before it knows that there is nothing to do."""
    script = (
        "import sys, spidl.cli.main, spidl.cli.keep, spidl.session, spidl.cache.store as store\n"
        "request = spidl.session.Request(spidl.session.find_program('true'))\n"
        "choice = spidl.session.selected(request)\n"
        "store.Store(choice.cache).find(choice.key)\n"
        "heavy = {'numpy', 'spidl.link.link', 'spidl.elf', 'spidl.registry', 'ctypes'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_files_are_short() -> None:
    long = {}
    for folder in ("src", "boot", "decode", "launcher", "tests", "examples", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".c", ".h", ".S"):
                lines = len(path.read_text().splitlines())
                if lines >= 400:
                    long[str(path.relative_to(ROOT))] = lines
    assert {path: lines for path, lines in long.items() if path not in LONG_FILES} == {}
    assert set(LONG_FILES) <= set(long), "a reason that is no longer needed"


# -- error codes ---------------------------------------------------------------------------------

CODE = re.compile(r"[a-z]+/[a-z0-9]+(?:-[a-z0-9]+)*")
NATIVE = ("boot", "launcher")
"""C whose `die` and `warn` put `start/` before the code that they are given."""
PARSE_ERRORS = ("reader.py", "opening.py")
"""Files of elf/ whose helpers put `parse/` before the code that they are given."""


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def source_codes() -> set[str]:
    """Every code in the Python source: first arguments of errors, tables of codes, the C's own."""
    codes: set[str] = set()
    constants: set[str] = set()
    for path in python_files(PACKAGE):
        in_elf = path.parent.name == "elf"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                constants.add(node.value)
            if not (isinstance(node, ast.Call) and node.args):
                continue
            first = node.args[0]
            if in_elf and _called(node) in ("error", "_error") and isinstance(first, ast.Constant):
                codes.add(f"parse/{first.value}")
            elif _called(node) in ("LinkError", "Refusal"):
                if isinstance(first, ast.Constant):
                    codes.add(str(first.value))
                else:
                    plain = isinstance(first, ast.JoinedStr) and path.name not in PARSE_ERRORS
                    assert not plain, f"{path}:{node.lineno}: write the code out"
    phases = {code.partition("/")[0] for code in codes} | {phase.name for phase in PHASES}
    codes |= {c for c in constants if CODE.fullmatch(c) and c.partition("/")[0] in phases}
    for path in (file for folder in NATIVE for file in (ROOT / folder).glob("*.c")):
        found = re.findall(r'\b(?:die|warn)\("([a-z-]+)"', path.read_text())
        codes |= {f"start/{what}" for what in found}
    return codes


def test_every_error_code_is_documented_and_nothing_else() -> None:
    text = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \| (.+) \|$", text, re.MULTILINE)
    documented = [code for code, _, _ in rows]
    assert len(documented) == len(set(documented)), "a code has two rows"
    codes = source_codes()
    assert len(codes) > 80
    assert codes - set(documented) == set(), "not in docs/errors.md"
    assert set(documented) - codes == set(), "in docs/errors.md, but nothing raises it"


def test_codes_are_documented_under_their_phase_in_order() -> None:
    phase, seen = "", []
    for line in (ROOT / "docs" / "errors.md").read_text().splitlines():
        if heading := re.match(r"## ([a-z]+)\b", line):
            phase, seen = heading[1], []
        elif row := re.match(r"\| `([^`]+)` \|", line):
            assert row[1].partition("/")[0] == phase
            seen.append(row[1])
            assert seen == sorted(seen)
