"""File trees of another system in a temporary folder, and programs with libraries from them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .conftest import Workshop
from .harness import PLAIN_WAY, STEERING, Layout, Outcome, assert_same, run, spidl

LIBRARIES = "lib/x86_64-linux-gnu"
PIPELINE = ["preload", "sysv", "gnu", "musl", "capsule"]
_LDCONFIG = shutil.which("ldconfig") or "/sbin/ldconfig"


@dataclass(frozen=True)
class Tree:
    """A root with libraries and an ld.so.cache."""

    root: Path
    made: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """What was compiled, by folder: a new file would make images of the old one stale."""

    @property
    def libraries(self) -> Path:
        """Where most libraries are."""
        return self.root / LIBRARIES

    def library(
        self, name: str, *sources: str, flags: tuple[str, ...] = (), folder: str = LIBRARIES
    ) -> Path:
        """Compile a library without a search path of its own into a folder of the tree; sources
        ending in .so are its neighbours."""
        place = self.root / folder
        link = f"-Wl,-rpath-link,{self.libraries}"
        soname = () if "-Wl,-h," in " ".join(flags) else (f"-Wl,-h,{os.path.basename(name)}",)
        made = self.made.setdefault(folder, {})
        return Workshop(place, made).library(name, *sources, flags=(link, *soname, *flags))

    def cache(self, *folders: str) -> None:
        """Write its ld.so.cache, as ldconfig does."""
        (self.root / "etc").mkdir(exist_ok=True)
        listed = folders or ("/" + LIBRARIES,)
        (self.root / "etc" / "ld.so.conf").write_text("".join(f"{f}\n" for f in listed))
        subprocess.run([_LDCONFIG, "-X", "-r", str(self.root)], check=True)

    def capsule(self, *libraries: str, **settings: object) -> dict[str, object]:
        """Settings of a capsule of this tree."""
        return {"root": str(self.root), "libraries": list(libraries), **settings}


def toml(capsules: Mapping[str, Mapping[str, object]], modules: Sequence[str] = ()) -> str:
    """A spidl.toml with these capsules, and more modules behind."""
    lines = [f"pipeline = {json.dumps([*PIPELINE, *modules])}"]
    for name, settings in capsules.items():
        lines.append(f"[modules.capsule.capsules.{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    return "\n".join(lines) + "\n"


@dataclass
class Capsuled:
    """Builds images with capsules into one folder, each once."""

    folder: Path
    layout: Layout = "shared"
    steering: Mapping[str, str] = field(default_factory=dict)
    modules: Sequence[str] = ()
    _built: dict[tuple[str, str, Layout], Path] = field(default_factory=dict)

    def build(self, program: Path, capsules: Mapping[str, Mapping[str, object]]) -> Path:
        """The image of a program; raises AssertionError with what `spidl build` said."""
        text = toml(capsules, self.modules)
        key = (str(program), text, self.layout)
        if key not in self._built:
            self.folder.mkdir(exist_ok=True)
            image = self.folder / f"{program.name}.{self.layout}.{len(self._built)}"
            config = Path(f"{image}.toml")
            config.write_text(text)
            result = spidl(
                ["build", f"--config={config}", f"--layout={self.layout}", "-o", str(image),
                 str(program)],
                steering=self.steering,
            )  # fmt: skip
            assert result.status == 0, f"{program}: {result}"
            self._built[key] = image
        return self._built[key]

    def run(
        self,
        argv: Sequence[str],
        capsules: Mapping[str, Mapping[str, object]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        status: int | None = 0,
    ) -> Outcome:
        """Run ``argv`` as an image, which must not take the plain way."""
        image = self.build(Path(argv[0]), capsules)
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith((*STEERING, "SPIDL_"))
        }
        environment |= {**self.steering, **(env or {})}
        verbose = run(argv, executable=image, env=environment | {"SPIDL_VERBOSE": "1"}, cwd=cwd)
        assert PLAIN_WAY not in verbose.stderr, f"the image was not used: {verbose}"
        outcome = run(argv, executable=image, env=environment, cwd=cwd)
        assert status is None or outcome.status == status, f"{argv}: {outcome}"
        return outcome

    def same(
        self,
        argv: Sequence[str],
        capsules: Mapping[str, Mapping[str, object]],
        tree: Tree,
        *,
        env: Mapping[str, str] | None = None,
        status: int | None = 0,
    ) -> Outcome:
        """Compare with the system's linker, which finds the tree by LD_LIBRARY_PATH."""
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith((*STEERING, "SPIDL_"))
        }
        environment |= {**self.steering, **(env or {})}
        oracle = run(argv, env=environment | {"LD_LIBRARY_PATH": str(tree.libraries)})
        assert status is None or oracle.status == status, f"already without Spidl: {oracle}"
        result = self.run(argv, capsules, env=env, status=None)
        assert_same(oracle, result, argv)
        return oracle
