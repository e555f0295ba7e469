"""A fault of Spidl's must not keep a program from starting that starts without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .attack import environment, library, one_error, program, spidl_with
from .harness import SOURCE, Outcome, run

SAYS = '#include <stdio.h>\nint main(void) { puts("here"); return 3; }'
FAULTS = {
    "adopt/differs": "from spidl.diagnostics import LinkError\n"
    "def broken(*a, **k): raise LinkError('adopt/differs', 'made up', help='none')\n"
    "import spidl.targets.exec.adopt as m; m.compare = broken",
    "internal/fault": "def broken(*a, **k): raise IndexError('made up')\n"
    "import spidl.targets.exec.adopt as m; m.compare = broken",
    "collect/not-found": "import spidl.modules.gnu as gnu, spidl.modules.gnu.search as m\n"
    "from spidl.api import Need\n"
    "def broken(name, dso, link): return Need(name, None, found='nowhere')\n"
    "m.find = gnu.find = broken",
    "module/failed": "import spidl.modules.sysv as m\n"
    "def broken(*a): raise IndexError('made up')\n"
    "m.relocate = broken",
}
NOTHING = (
    "from spidl.api import Module\nclass Nothing(Module):\n    name = 'nothing'\n"
    "    def register(self, dso, pipeline): pass\n"
)


@pytest.fixture
def main(tmp_path: Path) -> Path:
    return program(tmp_path / "program", SAYS)


def with_fault(code: str, folder: Path, *words: str | Path) -> Outcome:
    """Spidl's command line with one of its functions broken."""
    (folder / "fault").mkdir(exist_ok=True)
    (folder / "fault/sitecustomize.py").write_text(FAULTS[code])
    paths = f"{folder / 'fault'}:{SOURCE}"
    return spidl_with(words, {"PYTHONPATH": paths, "SPIDL_CACHE": str(folder / "cache")})


@pytest.mark.parametrize("code", FAULTS)
def test_the_program_starts_all_the_same(main: Path, tmp_path: Path, code: str) -> None:
    for _ in range(2):
        result = with_fault(code, tmp_path, "run", main)
        assert (result.stdout, result.status) == (b"here\n", 3), result
        assert result.stderr.startswith(f"spidl: warning[{code}]: ".encode()), result
        assert b"plain way" in result.stderr
    built = with_fault(code, tmp_path, "build", main, "-o", tmp_path / "image")
    assert (built.status, built.stdout) == (2, b""), built
    assert f"spidl: error[{code}]".encode() in built.stderr


def test_a_link_of_the_users_own_making_stays_an_error(main: Path, tmp_path: Path) -> None:
    module = tmp_path / "nothing.py"
    module.write_text(NOTHING)
    result = with_fault("adopt/differs", tmp_path, "run", "--with", module, main)
    assert one_error(result) == "adopt/differs"


def test_both_agree(tmp_path: Path) -> None:
    """What ld.so refuses as well is one clear error, Spidl's."""
    lib = library(tmp_path / "libvalue.so", "int value = 1;")
    main = program(tmp_path / "program",
                   "extern int value; int main(void) { return value; }", lib)  # fmt: skip
    cache = {"SPIDL_CACHE": str(tmp_path / "cache")}
    library(tmp_path / "libvalue.so", "int other;")
    assert run([str(main)], env=environment()).status == 127
    assert one_error(spidl_with(["run", main], cache)) == "relocate/undefined-symbol"
    lib.unlink()
    assert run([str(main)], env=environment()).status == 127
    assert one_error(spidl_with(["run", main], cache)) == "collect/not-found"


def test_a_32_bit_program_is_left_alone(main: Path, tmp_path: Path) -> None:
    content = bytearray(main.read_bytes())
    content[4], content[18] = 1, 3  # ELFCLASS32, EM_386
    main.write_bytes(content)
    result = spidl_with(["build", main, "-o", tmp_path / "image"])
    assert one_error(result) == "parse/wrong-class"
    assert b"refused" in result.stderr
