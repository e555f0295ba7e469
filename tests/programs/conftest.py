"""Fixtures: a workshop that compiles the sources in src/, and `same`, the comparison."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest

from .harness import LAYOUTS, Images, Layout, Outcome, compare

SRC = Path(__file__).parent / "src"
FLAGS = ("-O1", "-g", "-Wall", "-Wno-unused-function")


@dataclass(frozen=True)
class Workshop:
    """Compiles into one folder; every program finds its libraries through $ORIGIN."""

    folder: Path
    made: dict[str, list[str]] = field(default_factory=dict)

    def program(self, name: str, *sources: str, flags: tuple[str, ...] = (), cc: str = "") -> Path:
        """A PIE, unless ``flags`` say otherwise; sources ending in .so are libraries made here."""
        other = {"-no-pie", "-static", "-static-pie"}.intersection(flags)
        return self._compile(name, sources, (*(() if other else ("-fPIE", "-pie")), *flags), cc)

    def library(self, name: str, *sources: str, flags: tuple[str, ...] = (), cc: str = "") -> Path:
        """A shared library with its file name as DT_SONAME."""
        soname = () if "-Wl,-h," in " ".join(flags) else (f"-Wl,-h,{name}",)
        return self._compile(name, sources, ("-fPIC", "-shared", *soname, *flags), cc)

    def _compile(
        self, name: str, sources: tuple[str, ...], flags: tuple[str, ...], cc: str
    ) -> Path:
        output = self.folder / name
        output.parent.mkdir(parents=True, exist_ok=True)
        inputs = [
            str(self.folder / source) if source.endswith((".so", ".map")) else str(SRC / source)
            for source in sources
        ]
        is_cxx = any(source.endswith(".cc") for source in sources)
        no_origin = any("rpath" in flag or "-static" in flag for flag in flags)
        origin = () if no_origin else ("-Wl,-rpath,$ORIGIN",)
        command = [
            cc or ("g++" if is_cxx else "gcc"),
            *FLAGS, *origin, "-Wl,--no-as-needed", "-o", str(output), f"-I{SRC}", *inputs, *flags,
        ]  # fmt: skip
        if output.exists() and self.made.get(name) == command:
            return output  # A new file would make the images of the old one stale.
        self.made[name] = command
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{' '.join(command)}\n{result.stderr}"
        return output

    def text(self, name: str, content: str) -> Path:
        """A small input beside the outputs, such as a version script."""
        path = self.folder / name
        path.write_text(content)
        return path


class Same(Protocol):
    """`harness.compare` with the layout and the image store of this test."""

    def __call__(self, argv: Sequence[str | bytes], **options: Any) -> Outcome: ...


@pytest.fixture(scope="module")
def workshop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """One folder for each test file, so that programs are compiled and linked once."""
    return Workshop(tmp_path_factory.mktemp(request.module.__name__.rpartition(".")[2]))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """The images of one test file; they are deleted after it, for the copied ones are big."""
    store = Images(tmp_path_factory.mktemp("images"))
    yield store
    for image in store.folder.iterdir():
        image.unlink()


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    """Both layouts of an image."""
    chosen: Layout = request.param
    return chosen


@pytest.fixture
def same(layout: Layout, images: Images) -> Same:
    """Compare a program under the system's linker with its image, in both layouts."""
    return partial(compare, layout=layout, images=images)


@pytest.fixture
def same_shared(images: Images) -> Same:
    """The same in the default layout only, where the other would add time and no fact."""
    return partial(compare, layout="shared", images=images)
