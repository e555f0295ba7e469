"""The attack on sshd by way of liblzma (CVE-2024-3094), with stand-ins: a library that the program
does not even name takes over a function of another one while it is loaded."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import Workshop
from .harness import LAYOUTS, Outcome, run, spidl

CLEAN = {"PATH": "/usr/bin:/bin"}
"""An environment that steers no linker."""


LZMA = "libtakenlzma.so"
GENUINE = Outcome(b"genuine\n", b"", 0)
IT_RUNS = b"it runs"
"""What the second version says when its code runs."""


@dataclass(frozen=True)
class Story:
    """A server in a folder of its own, and both versions of the library."""

    server: Path
    first: Path
    second: Path

    @property
    def installed(self) -> Path:
        return self.server.parent / LZMA

    def install(self, version: Path) -> None:
        """As a package manager does it: a new file under the old name."""
        new = self.installed.with_suffix(".new")
        shutil.copy(version, new)
        new.rename(self.installed)


@pytest.fixture
def story(workshop: Workshop, tmp_path: Path) -> Story:
    now = ("-Wl,-z,now",)
    workshop.library("libtakencrypto.so", "taken_crypto.c")
    first = workshop.library(LZMA, "taken_lzma.c")
    workshop.library("libtakennotify.so", "taken_notify.c", LZMA)
    second = workshop.library(
        f"second/{LZMA}", "taken_lzma.c", flags=("-DHOSTILE", "-fno-plt", f"-Wl,-h,{LZMA}", *now)
    )
    made = workshop.program(
        "takenserver", "taken_server.c", "libtakencrypto.so", "libtakennotify.so", flags=now
    )
    for file in (made, made.parent / "libtakencrypto.so", made.parent / "libtakennotify.so"):
        shutil.copy(file, tmp_path)
    story = Story(tmp_path / made.name, first, second)
    story.install(first)
    return story


@pytest.fixture
def policy(story: Story) -> Path:
    """What the server needs with the first version."""
    file = story.server.parent / "server.toml"
    done = spidl(["policy", "learn", str(story.server), "-o", str(file)])
    assert done == Outcome(b"", b"", 0)
    return file


def build(story: Story, policy: Path, **options: object) -> tuple[Outcome, Path]:
    image = story.server.parent / "image"
    done = spidl(
        ["build", str(story.server), "-o", str(image), "--with=authorise",
         f"--set=authorise.file={policy}", *(f"--{k}={v}" for k, v in options.items())]
    )  # fmt: skip
    return done, image


def test_without_a_policy_it_succeeds(story: Story) -> None:
    """Under the system's linker, and although the program binds everything before it starts."""
    assert run([str(story.server)], env=CLEAN) == GENUINE
    story.install(story.second)
    assert run([str(story.server)], env=CLEAN) == Outcome(b"taken over\n", IT_RUNS + b"\n", 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_learned_is_enough(story: Story, policy: Path, layout: str) -> None:
    done, image = build(story, policy, layout=layout)
    assert done.status == 0, done
    assert run([str(image)], env=CLEAN) == GENUINE


def test_the_second_version_is_not_linked(story: Story, policy: Path) -> None:
    story.install(story.second)
    done, image = build(story, policy)
    assert done.status == 2
    assert not image.exists()
    lines = done.stderr.decode().splitlines()
    assert lines[0] == (
        f"spidl: error[authorise/resolver]: {LZMA} brings IFUNC resolvers, which run while it is "
        "loaded: 1 without a name"
    )
    number = policy.read_text().splitlines().index(f'[objects."{LZMA}"]')
    line = next(i for i, text in enumerate(policy.read_text().splitlines(), 1)
                if i > number and text == "resolvers = false")  # fmt: skip
    assert lines[1] == f"  --> {policy}: line {line}"
    assert any("imports `mprotect` of libc.so.6 (executable-memory)" in text for text in lines)
    assert any("imports `_r_debug` of ld-linux-x86-64.so.2 (debugging)" in text for text in lines)
    assert lines[-1] == "   = help: if that is meant, allow it: resolvers = true"


def test_none_of_its_code_runs_before_it_is_refused(story: Story, policy: Path) -> None:
    story.install(story.second)
    done, _ = build(story, policy)
    assert IT_RUNS not in done.stderr
    permissive = policy.read_text().replace("resolvers = false", "resolvers = true")
    policy.write_text(permissive)
    done, _ = build(story, policy)
    assert b"authorise/import" in done.stderr
    assert IT_RUNS not in done.stderr


def test_an_image_does_not_start_with_it(story: Story, policy: Path) -> None:
    done, image = build(story, policy)
    assert done.status == 0, done
    story.install(story.second)
    refused = run([str(image)], env=CLEAN)
    assert (refused.stdout, refused.status) == (b"", 126)
    assert (
        refused.stderr == f"spidl: error[start/policy]: file changed: {story.installed}\n".encode()
    )
    os.remove(story.installed)
    assert run([str(image)], env=CLEAN).status == 126


def test_check_says_before_the_update_what_it_would_change(story: Story, policy: Path) -> None:
    asked = ["policy", "check", f"--policy={policy}", str(story.server)]
    assert spidl(asked).status == 0
    tried = {"LD_LIBRARY_PATH": str(story.second.parent)}
    done = spidl(asked, steering=tried)
    assert (done.stderr, done.status) == (b"", 1)
    assert (
        f"  {LZMA} newly imports debugging, descriptors, executable-memory and strings "
        "and brings IFUNC resolvers"
    ) in done.stdout.decode().splitlines()
    found = json.loads(spidl([*asked, "--json"], steering=tried).stdout)["programs"][0]
    assert not found["allowed"]
    assert {v["object"] for v in found["violations"]} == {LZMA}
    assert found["violations"][0]["code"] == "authorise/resolver"
    assert spidl(asked).status == 0, "the installed one is still the first"
