"""What the checks of an image cost: the same image with them and without, side by side.

The image without them is made here, through the linker's own interface: the same link, its checks
left out of the table.  Nothing else differs, so the difference of two starts is their cost.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks.figures import (
    COPIED,
    LAZY,
    NO_ENVIRONMENT,
    NO_FILES,
    NO_MACHINE,
    NONE,
    SHARED,
    UNCHECKED,
    WHOLE,
    Checks,
    Validation,
)
from benchmarks.measure import Candidate, progress, side_by_side
from benchmarks.starts import EMPTY
from benchmarks.workspace import Workspace
from spidl.link.actions import (
    Action,
    CheckAbsent,
    CheckEnvironment,
    CheckFile,
)
from spidl.session import Request, make_link

COUNTS = (1, 25, 50, 100, 200)
"""Libraries of the generated programs."""
VARIABLES = (30, 1000)

Kept = Callable[[Action], bool]
"""Which checks stay in an image."""


def of_files(check: Action) -> bool:
    return isinstance(check, CheckFile | CheckAbsent)


def of_environment(check: Action) -> bool:
    return isinstance(check, CheckEnvironment)


def measure_validation(space: Workspace) -> list[Validation]:
    """Start times over the number of libraries; all of them are tiny and have one function."""
    counts = COUNTS[:2] if space.quick else COUNTS
    folder = space.new_folder("tiny")
    _compile_tiny(folder, max(counts))
    found: list[Validation] = []
    for count in counts:
        progress(f"checks of {count} libraries")
        program = _program(folder, count)
        outputs = {
            layout: space.new_folder(layout) / program.name
            for layout in (SHARED, COPIED, UNCHECKED)
        }
        inputs = write_image(program, "shared", outputs[SHARED])
        write_image(program, "copy", outputs[COPIED])
        write_image(program, "copy", outputs[UNCHECKED], lambda check: not of_files(check))
        ways, rounds = side_by_side(
            {
                LAZY: Candidate([str(program)]),
                **{name: Candidate([str(path)]) for name, path in outputs.items()},
            },
            base=LAZY,
            seconds=1.5 if space.quick else 10,
            most=1000,
        )
        found.append({"libraries": count, "rounds": rounds, "inputs": inputs, "ways": ways})
    return found


def measure_checks(space: Workspace) -> list[Checks]:
    """Which of the checks cost what, in ``main(){}``, over the size of the environment."""
    program = Path(space.compile("main", EMPTY))
    choices: dict[str, Kept] = {
        WHOLE: lambda check: True,
        NO_ENVIRONMENT: lambda check: not of_environment(check),
        NO_FILES: lambda check: not of_files(check),
        NO_MACHINE: lambda check: of_files(check) or of_environment(check),
        NONE: lambda check: False,
    }
    images = {name: space.new_folder("checks") / "main" for name in choices}
    for name, kept in choices.items():
        write_image(program, "copy", images[name], kept)
    found: list[Checks] = []
    for count in VARIABLES:
        progress(f"checks with {count} environment variables")
        more = {
            f"NUMBERS_{i:04}": "a value of usual length" for i in range(count - len(os.environ))
        }
        ways, rounds = side_by_side(
            {name: Candidate([str(path)], more) for name, path in images.items()},
            base=WHOLE,
            seconds=1 if space.quick else 15,
            most=3000,
        )
        found.append({"variables": count, "rounds": rounds, "ways": ways})
    return found


def write_image(program: Path, layout: str, output: Path, kept: Kept = lambda check: True) -> int:
    """Link a program and write an image with some of its checks; the number of all inputs."""
    link = make_link(Request(str(program), layout=layout))
    from spidl.targets.exec.target import Layout, build_image
    from spidl.targets.exec.writer import encode_image
    from spidl.targets.exec.writer import write_image as write

    link.run()
    image = build_image(link, Layout(layout))
    image = replace(image, checks=tuple(check for check in image.checks if kept(check)))
    write(str(output), encode_image(image))
    return len(image.inputs) + len(image.absent)


def _compile_tiny(folder: Path, count: int) -> None:
    """libtiny0.so ... with one function each."""
    for i in range(count):
        source = folder / f"tiny{i}.c"
        source.write_text(f"int tiny{i}(void) {{ return {i}; }}\n", encoding="ascii")
        subprocess.run(
            ["gcc", "-O1", "-shared", "-fPIC", "-o", str(folder / f"libtiny{i}.so"), str(source)],
            check=True,
        )


def _program(folder: Path, count: int) -> Path:
    """A program that needs so many of them and calls each."""
    program = folder / f"program{count}"
    calls = " + ".join(f"tiny{i}()" for i in range(count))
    declared = "".join(f"int tiny{i}(void);\n" for i in range(count))
    source = folder / f"program{count}.c"
    source.write_text(f"{declared}int main(void) {{ return ({calls}) < 0; }}\n", encoding="ascii")
    command = ["gcc", "-O1", "-o", str(program), str(source), f"-L{folder}"]
    command += [f"-ltiny{i}" for i in range(count)]
    subprocess.run([*command, f"-Wl,-rpath,{folder}"], check=True)
    return program
