"""Policies of real links: what is learned, what is not allowed, who is taken for whom."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from .conftest import Workshop
from .harness import Outcome, run, spidl

LIBRARY = "libpolicy.so"


@pytest.fixture
def program(workshop: Workshop, tmp_path: Path) -> Path:
    library = workshop.library(LIBRARY, "policy_lib.c")
    made = workshop.program("policy", "policy_main.c", LIBRARY)
    shutil.copy(library, tmp_path)
    return Path(shutil.copy(made, tmp_path))


def learn(program: Path, *options: str) -> dict[str, Any]:
    done = spidl(["policy", "learn", str(program), *options])
    assert (done.stderr, done.status) == (b"", 0)
    found: dict[str, Any] = tomllib.loads(done.stdout.decode())["objects"]
    return found


def check(policy: Path, program: Path, **steering: str) -> list[dict[str, Any]]:
    """What is not allowed."""
    done = spidl(["policy", "check", f"--policy={policy}", "--json", str(program)],
                 steering=steering)  # fmt: skip
    assert done.stderr == b""
    found: list[dict[str, Any]] = json.loads(done.stdout)["programs"][0]["violations"]
    assert done.status == (1 if found else 0)
    return found


def write(program: Path, text: str) -> Path:
    file = program.parent / "policy.toml"
    file.write_text(text)
    return file


def learned(program: Path) -> str:
    done = spidl(["policy", "learn", str(program)])
    assert done.status == 0
    return done.stdout.decode()


def test_what_is_learned(program: Path) -> None:
    found = learn(program)
    assert next(iter(found)) == "policy"
    assert found["policy"] == {
        "imports": {"libc.so.6": ["executable-memory", "startup", "streams"], LIBRARY: ["*"]},
        "resolvers": False,
        "constructors": False,
    }
    assert found[LIBRARY]["imports"] == {"libc.so.6": ["startup"]}
    assert found["libc.so.6"]["resolvers"] is True
    assert "libgcc_s.so.1" in found["libc.so.6"]["opens"]
    assert "libgcc_s.so.1" in found, "what may be opened is held to the policy too"


def test_learning_twice_gives_the_same(program: Path) -> None:
    assert learned(program) == learned(program)


def test_symbols_and_pins(program: Path) -> None:
    found = learn(program, "--symbols", "--pin")
    assert found["policy"]["imports"][LIBRARY] == ["symbol:policy_call", "symbol:policy_number"]
    assert found[LIBRARY]["path"] == str(program.parent / LIBRARY)
    assert len(found[LIBRARY]["build_id"]) == 40


def test_several_programs_share_a_policy(program: Path) -> None:
    done = spidl(["policy", "learn", str(program), "/bin/true"])
    policy = write(program, done.stdout.decode())
    assert list(tomllib.loads(policy.read_text())["objects"])[:2] == ["policy", "true"]
    for path in (program, Path("/bin/true")):
        assert check(policy, path) == []


def test_no_policy_and_no_such_policy(program: Path) -> None:
    done = spidl(["policy", "check", str(program)], steering={"XDG_CONFIG_HOME": "/nothing"})
    assert done.status == 2
    assert done.stderr.startswith(b"spidl: error[cli/usage]: no policy is given\n")
    done = spidl(["policy", "check", "--policy=/nothing.toml", str(program)])
    assert done.status == 2
    assert done.stderr.startswith(b"spidl: error[authorise/no-policy]: ")


def test_a_relative_policy_is_refused(program: Path) -> None:
    write(program, learned(program))
    done = spidl(["run", "--with=authorise", "--set=authorise.file=policy.toml", str(program)],
                 cwd=program.parent)  # fmt: skip
    assert done.status == 2
    assert b"error[config/wrong-value]" in done.stderr


def test_each_kind_of_violation(program: Path) -> None:
    """A policy that allows nothing but the C library as it is."""
    text = learned(program)
    tables = text.split("\n\n")
    kept = [t for t in tables if not t.startswith(('[objects."policy"]', f'[objects."{LIBRARY}"]'))]
    bare = '[objects."policy"]\nbuild_id = "00"\nimports."libpolicy.so" = ["symbol:policy_call"]'
    policy = write(program, "\n\n".join([*kept, bare]) + "\n")
    found = check(policy, program)
    assert [(v["code"], v["object"]) for v in found] == [
        ("authorise/unknown-object", LIBRARY),
        ("authorise/other-file", "policy"),
        ("authorise/import", "policy"),
        ("authorise/import", "policy"),
        ("authorise/import", "policy"),
        ("authorise/import", "policy"),
    ]
    assert [v["interface"] for v in found[2:]] == ["executable-memory", "startup", "streams", None]
    last = found[-1]
    assert last["symbols"] == ["policy_number"]
    assert last["allow"] == 'imports."libpolicy.so" = ["symbol:policy_number"]'
    line = policy.read_text().splitlines()[last["line"] - 1]
    assert line.startswith('imports."libpolicy.so"')
    done = spidl(["build", str(program), "-o", str(program.parent / "no"), "--with=authorise",
                  f"--set=authorise.file={policy}"])  # fmt: skip
    assert done.status == 2
    assert not (program.parent / "no").exists()
    assert done.stderr.count(b"\n   = ") == len(found), "all are listed, the first in the headline"


def test_more_than_ten_are_counted(program: Path) -> None:
    policy = write(program, "")
    number = len(check(policy, program))
    assert number == 4, "each object of the link"
    bare = "".join(f'[objects."{name}"]\n' for name in
                   ("policy", LIBRARY, "libc.so.6", "ld-linux-x86-64.so.2"))  # fmt: skip
    policy = write(program, bare)
    number = len(check(policy, program))
    assert number > 10
    done = spidl(["run", "--with=authorise", f"--set=authorise.file={policy}", str(program)])
    more = f"   = and {number - 10} more: spidl policy check policy"
    assert more in done.stderr.decode().splitlines()


def test_a_function_in_the_place_of_anothers(workshop: Workshop, program: Path) -> None:
    """The library calls its own function, and gets the program's."""
    policy = write(program, learned(program))
    other = workshop.program("other/policy", "policy_main.c", LIBRARY,
                             flags=("-DINTERPOSES", "-rdynamic"))  # fmt: skip
    shutil.copy(other, program)
    assert run([str(program)]).stdout == b"7 1007 1\n"
    found = check(policy, program)
    codes = {(v["code"], v["object"], v["provider"], tuple(v["symbols"])) for v in found}
    assert ("authorise/interposition", "policy", LIBRARY, ("policy_inner",)) in codes
    assert ("authorise/import", LIBRARY, "policy", ("policy_inner",)) in codes
    allowed = learn(program)
    assert allowed["policy"]["interposes"] == {LIBRARY: ["symbol:policy_inner"]}


@pytest.mark.parametrize("flags", [("-no-pie", "-fno-pie"), ()], ids=["no-pie", "pie"])
def test_copied_data_is_no_interposition(
    workshop: Workshop, program: Path, flags: tuple[str, ...]
) -> None:
    """`stdout` and `policy_number` lie in the program, which has copied them (R_X86_64_COPY)."""
    name = f"copies{len(flags)}/policy"
    shutil.copy(workshop.program(name, "policy_main.c", LIBRARY, flags=flags), program)
    found = learn(program)
    assert "interposes" not in found["policy"]
    assert "policy" not in found[LIBRARY]["imports"]
    assert "policy" not in found["libc.so.6"].get("imports", {})
    policy = write(program, learned(program))
    image = program.parent / "image"
    done = spidl(["build", str(program), "-o", str(image), "--with=authorise",
                  f"--set=authorise.file={policy}"])  # fmt: skip
    assert done.status == 0, done
    assert run([str(image)]) == Outcome(b"7 8 1\n", b"", 0)


def test_a_preloaded_library_needs_a_table(workshop: Workshop, program: Path) -> None:
    policy = write(program, learned(program))
    preloaded = workshop.library("libpreloaded.so", "policy_lib.c")
    found = check(policy, program, LD_PRELOAD=str(preloaded))
    assert ("authorise/unknown-object", "libpreloaded.so") in {
        (v["code"], v["object"]) for v in found
    }


def test_another_policy_is_another_link(program: Path) -> None:
    """An image knows the policy that it was linked under, and the launcher links anew."""
    policy = write(program, learned(program))
    image = program.parent / "image"
    asked = ["--with=authorise", f"--set=authorise.file={policy}"]
    assert spidl(["build", str(program), "-o", str(image), *asked]).status == 0
    assert run([str(image)]).status == 0
    policy.write_text(policy.read_text() + "\n# another\n")
    refused = run([str(image)])
    assert refused.status == 126
    assert refused.stderr == f"spidl: error[start/policy]: file changed: {policy}\n".encode()
    cache = {"SPIDL_CACHE": str(program.parent / "cache")}
    for text, status in ((policy.read_text(), 0), ("", 2), (policy.read_text(), 0)):
        policy.write_text(text)
        assert spidl(["run", *asked, str(program)], steering=cache).status == status


def test_symbols_that_are_not_there_are_warned_of(program: Path) -> None:
    policy = write(program, learned(program).replace(
        f'imports."{LIBRARY}" = ["*"]', f'imports."{LIBRARY}" = ["symbol:policy_*", "symbol:polcy"]'
    ))  # fmt: skip
    done = spidl(["policy", "check", f"--policy={policy}", str(program)])
    assert done.status == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0] == f"{program}: all that it does is allowed by {policy}"
    assert [line.partition(": ")[2].partition(": ")[2] for line in lines[1:]] == [
        f"{LIBRARY} exports no `polcy`"
    ]


def test_own_interfaces(program: Path) -> None:
    text = learned(program).replace(f'imports."{LIBRARY}" = ["*"]',
                                    f'imports."{LIBRARY}" = ["calls"]')  # fmt: skip
    own = f'[interfaces."{LIBRARY}"]\ncalls = ["policy_call"]\ndata = ["policy_num*"]\n'
    (found,) = check(write(program, text + own), program)
    assert (found["interface"], found["symbols"]) == ("data", ["policy_number"])
    text = text.replace('["calls"]', '["calls", "data"]')
    assert check(write(program, text + own), program) == []
