"""What the gate lets be opened: the files that were linked, by whom the policy says."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .conftest import Workshop
from .harness import LAYOUTS, Outcome, run, spidl

REFUSED = "refused by the image's policy: "
NOT_AMONG = f"{REFUSED}it is not among the libraries that may be opened"
OPENS = ("libgateone.so", "libgatemore.so")
"""What the program may open, by the policy of these tests."""


@dataclass
class Gated:
    """A program in a folder of its own, its policy and its image."""

    folder: Path
    made: list[Path] = field(default_factory=list)

    @property
    def program(self) -> Path:
        return self.folder / "gate"

    @property
    def policy(self) -> Path:
        return self.folder / "gate.toml"

    def learn(self, *opens: str, program: Path | None = None) -> None:
        asked = str(program or self.program)
        options = [f"--opens={item}" for item in opens]
        done = spidl(["policy", "learn", asked, "-o", str(self.policy), *options])
        assert done == Outcome(b"", b"", 0)

    def build(self, layout: str = "shared", *, program: Path | None = None) -> Path:
        asked = str(program or self.program)
        image = self.folder / f"image{len(self.made)}"
        done = spidl(["build", asked, "-o", str(image), "--with=authorise",
                      f"--set=authorise.file={self.policy}", f"--layout={layout}"])  # fmt: skip
        assert done.status == 0, done
        self.made.append(image)
        return image

    def lines(self, *arguments: str, image: Path | None = None) -> list[str]:
        """What the program says, in its folder; with an image, as that."""
        done = run([str(image or self.program), *arguments], cwd=self.folder)
        assert (done.stderr, done.status) == (b"", 0), done
        return done.stdout.decode().splitlines()


@pytest.fixture
def gated(workshop: Workshop, tmp_path: Path) -> Gated:
    one, two, part = ("-DVALUE=1", "-DNEEDS"), ("-DVALUE=2",), "libgatepart.so"
    files = [
        workshop.library("libgateopener.so", "gate_opener.c"),
        workshop.library(part, "gate_part.c", flags=("-DPART=10",)),
        workshop.library("libgateone.so", "gate_value.c", part, flags=one),
        workshop.library("libgatetwo.so", "gate_value.c", flags=two),
        workshop.library("libgateno.so", "gate_value.c", flags=("-DVALUE=4",)),
        workshop.library(
            "libgatemore.so", "gate_value.c",
            flags=("-DVALUE=3", '-DOPENS="libgatetwo.so"'),
        ),
        workshop.program("gate", "gate_main.c", "libgateopener.so"),
    ]  # fmt: skip
    for file in files:
        shutil.copy(file, tmp_path)
    gated = Gated(tmp_path)
    gated.learn(*(f"gate={name}" for name in OPENS))
    return gated


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_allowed_is_opened(gated: Gated, layout: str) -> None:
    asked = ("open", "libgateone.so", "self", "-", "noload", "libgateone.so", "noload",
             "libgateno.so", "open", "libc.so.6", "user", "root", "convert", "LATIN1",
             "open", "libgatenothing.so", "open", "./nothing.so")  # fmt: skip
    plain = gated.lines(*asked)
    assert plain[0] == "open libgateone.so: 11"
    assert gated.lines(*asked, image=gated.build(layout)) == plain


@pytest.mark.parametrize("name", ["libgateno.so", "./libgateno.so", "{folder}/libgateno.so"])
def test_what_is_not_allowed_fails_as_dlopen_does(gated: Gated, name: str) -> None:
    name = name.format(folder=gated.folder)
    assert gated.lines("open", name) == [f"open {name}: 4"]
    assert gated.lines("open", name, image=gated.build()) == [
        f"open {name}: {name}: {NOT_AMONG} (spidl policy check {gated.program})"
    ]


def test_any_way_to_the_same_file_is_the_same(gated: Gated) -> None:
    (gated.folder / "link.so").symlink_to("libgateone.so")
    image = gated.build()
    ways = ("libgateone.so", "./libgateone.so", f"{gated.folder}//libgateone.so", "./link.so")
    for way in ways:
        assert gated.lines("open", way, image=image) == [f"open {way}: 11"]
    (gated.folder / "link.so").unlink()
    (gated.folder / "link.so").symlink_to("libgateno.so")
    (line,) = gated.lines("open", "./link.so", image=image)
    assert NOT_AMONG in line


def test_who_asks_counts(gated: Gated) -> None:
    """The program may open it, the library that opens for others may not; nor is what was opened
    meanwhile new."""
    image = gated.build()
    refused = f"{REFUSED}this may not be opened by libgateopener.so"
    (line,) = gated.lines("others", "libgateone.so", image=image)
    assert line.startswith(f"others libgateone.so: libgateone.so: {refused}")
    both = gated.lines("open", "libgateone.so", "others", "libgateone.so", image=image)
    assert both == ["open libgateone.so: 11", "others libgateone.so: 11"]


def test_what_is_opened_opens_under_its_own_table(gated: Gated) -> None:
    """libgatemore.so opens libgatetwo.so while it is loaded: that stands in its strings."""
    assert gated.lines("open", "libgatemore.so", image=gated.build()) == [
        "open libgatemore.so: 1003"
    ]
    text = gated.policy.read_text()
    gated.policy.write_text(re.sub(r'^opens = \["libgatetwo.so"\]\n', "", text, flags=re.MULTILINE))
    assert gated.policy.read_text() != text
    assert gated.lines("open", "libgatemore.so", image=gated.build()) == [
        "open libgatemore.so: 2003"
    ]


@pytest.mark.parametrize("changed", ["libgateone.so", "libgatepart.so"])
def test_what_was_replaced_is_not_opened(gated: Gated, workshop: Workshop, changed: str) -> None:
    """The file itself, or one that it needs: while the program runs, and before it starts."""
    image = gated.build()
    new = workshop.library("new/libgatetwo.so", "gate_value.c", flags=("-DVALUE=2", "-DNEEDS"))
    if changed == "libgatepart.so":
        new = workshop.library("new/libgatepart.so", "gate_part.c", flags=("-DPART=20",))
    asked = ("install", f"./{changed}", "open", "libgateone.so", "open", "./libgateone.so")
    shutil.copy(new, gated.folder / f"{changed}.new")
    done, *lines = gated.lines(*asked, image=image)
    assert done == "install: 0"
    by_name = f"{REFUSED}not as it was linked: {gated.folder}/{changed}"
    assert by_name in lines[0]
    assert REFUSED in lines[1]


def test_what_appears_on_the_way_is_not_opened(gated: Gated) -> None:
    """A library that would now be found first, for one that an allowed library needs."""
    program, first = gated.folder / "gate", gated.folder / "first"
    first.mkdir()
    shutil.copy(gated.folder / "libgatepart.so", gated.folder / "part.so")
    steering = {**os.environ, "LD_LIBRARY_PATH": str(first)}
    image = gated.folder / "steered"
    done = spidl(["build", str(program), "-o", str(image), "--with=authorise",
                  f"--set=authorise.file={gated.policy}"],
                 steering={"LD_LIBRARY_PATH": str(first)})  # fmt: skip
    assert done.status == 0, done
    asked = [str(image), "open", "libgateone.so"]
    assert run(asked, env=steering).stdout == b"open libgateone.so: 11\n"
    shutil.copy(gated.folder / "part.so", first / "libgatepart.so")
    line = run(asked, env=steering).stdout.decode()
    assert f"{REFUSED}was not there when this was linked: {first}/libgatepart.so" in line


def test_another_namespace(gated: Gated) -> None:
    """Everything is loaded again there, the C library too."""
    image = gated.build()
    assert gated.lines("space", "libgateone.so", image=image) == ["space libgateone.so: 11"]
    (line,) = gated.lines("space", "libgateno.so", image=image)
    assert NOT_AMONG in line
    assert gated.lines("space", "libgateopener.so", image=image) == ["space libgateopener.so: 0"]


def test_what_is_linked_is_opened_in_another_namespace_only_if_allowed(gated: Gated) -> None:
    text = gated.policy.read_text()
    without = re.sub(r'(opens = \[[^]]*?),\s*"libgateopener.so"', r"\1", text)
    assert without != text
    gated.policy.write_text(without)
    image = gated.build()
    (line,) = gated.lines("space", "libgateopener.so", image=image)
    assert NOT_AMONG in line
    assert gated.lines("open", "libgateopener.so", image=image) == ["open libgateopener.so: 0"]


def test_threads(gated: Gated) -> None:
    image = gated.build()
    assert gated.lines("threads", "libgateone.so", image=image) == ["threads: 2200"]
    assert gated.lines("threads", "libgateno.so", image=image) == ["threads: 200000000"]


def test_services_of_glibc_need_the_policy_too(gated: Gated) -> None:
    """Name services and converters are opened by libc.so.6."""
    text = gated.policy.read_text()
    without = re.sub(r"^opens = \[\n.*?\n\]\n", "", text, flags=re.MULTILINE | re.DOTALL)
    assert without != text
    gated.policy.write_text(without)
    asked = ("convert", "EUC-JP")
    assert gated.lines(*asked) == ["convert: 1"]
    assert gated.lines(*asked, image=gated.build()) == ["convert: 0"]


def test_what_is_opened_is_held_to_the_policy_when_this_is_linked(gated: Gated) -> None:
    text = gated.policy.read_text()
    part = re.search(r'\[objects."libgatepart.so"\]\n(?:.+\n)*', text)
    assert part is not None
    gated.policy.write_text(text.replace(part[0], ""))
    done = spidl(["build", str(gated.program), "-o", str(gated.folder / "no"), "--with=authorise",
                  f"--set=authorise.file={gated.policy}"])  # fmt: skip
    assert done.status == 2
    assert done.stderr.startswith(
        b"spidl: error[authorise/unknown-object]: libgatepart.so is not in the policy "
        b"(libgateone.so needs it)\n"
    )


BEHAVIOURS = ("plugin", "noload", "global", "lifetime", "namespace", "constructor", "errors",
              "symbols", "threads", "paths")  # fmt: skip


@pytest.fixture(scope="module")
def opener(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The program of test_dlopen.py, and its image under the policy that was learned of it."""
    workshop.library("libcounter.so", "shared_counter.c")
    workshop.library("libplugin.so", "plugin.c", "libcounter.so")
    workshop.library("libprovider.so", "provider.c")
    workshop.library("libopener.so", "opens_in_constructor.c")
    program = workshop.program("opener", "dlopen_main.c", "libopener.so", "libcounter.so")
    folder = tmp_path_factory.mktemp("opener")
    gated = Gated(folder)
    gated.learn(program=program)
    return program, gated.build(program=program)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_all_that_dlopen_can_is_as_without_a_policy(
    opener: tuple[Path, Path], behaviour: str
) -> None:
    program, image = opener
    plain = run([str(program), behaviour])
    assert run([str(program), behaviour], executable=image) == plain
    assert plain.status == 0
