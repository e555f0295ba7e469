"""Reading policies: what they allow, and what is wrong with one, at which line."""

from __future__ import annotations

from pathlib import Path

import pytest

from spidl.diagnostics import LinkError
from spidl.modules.authorise.policy import Policy, read_policy

GOOD = """\
[interfaces."libz*.so.1"]
packing = ["deflate*", "compress"]

[objects."program"]
imports."libc.so.6" = ["memory", "files.open", "symbol:str*"]
imports."libz.so.1" = ["packing"]
opens = ["libnss_files.so.2"]

[objects."libz.so.1".imports]
"libc.so.6" = ["*"]

[objects."lib*.so.1"]
resolvers = true

[objects."/opt/**/*.so"]
constructors = true
"""


def read(folder: Path, text: str) -> Policy:
    file = folder / "policy.toml"
    file.write_text(text)
    return read_policy(str(file), file.read_bytes())


def wrong(folder: Path, text: str) -> tuple[str, str, str | None]:
    """Code, message, line of the error."""
    with pytest.raises(LinkError) as caught:
        read(folder, text)
    found = caught.value.diagnostic
    assert found.place is not None
    assert found.place.file == str(folder / "policy.toml")
    return found.code, found.message, found.place.table


def allows(policy: Policy, name: str, provider: str, symbol: str) -> bool:
    table = policy.table((name,), ())
    assert table is not None
    return not policy.denied(table.imports, provider, [symbol])


def test_what_is_granted(tmp_path: Path) -> None:
    policy = read(tmp_path, GOOD)
    asked = {
        "malloc": True, "munmap": True, "mmap": False, "open64": True, "unlink": False,
        "strlen": True, "memcpy": False,
    }  # fmt: skip
    for symbol, granted in asked.items():
        assert allows(policy, "program", "libc.so.6", symbol) is granted, symbol
    assert allows(policy, "program", "libz.so.1", "deflateInit_")
    assert not allows(policy, "program", "libz.so.1", "inflate")
    assert not allows(policy, "program", "libm.so.6", "sin")
    assert allows(policy, "libz.so.1", "libc.so.6", "anything")


def test_tables_by_name_by_wildcard_and_by_path(tmp_path: Path) -> None:
    policy = read(tmp_path, GOOD)

    def key(name: str, path: str = "/lib/x") -> str | None:
        table = policy.table((name,), (path,))
        return None if table is None else table.key

    assert key("libz.so.1") == "libz.so.1"
    assert key("liby.so.1") == "lib*.so.1"
    assert key("other.so") is None
    assert key("other.so", "/opt/other.so") == "/opt/**/*.so"
    assert key("other.so", "/opt/a/b/other.so") == "/opt/**/*.so"
    assert key("libz.so.1", "/opt/libz.so") == "libz.so.1"
    with pytest.raises(LinkError) as caught:
        key("liby.so.1", "/opt/liby.so")
    assert caught.value.code == "authorise/ambiguous"


def test_lines(tmp_path: Path) -> None:
    policy = read(tmp_path, GOOD)
    assert policy.line("program") == 4
    assert policy.line("program", "imports.libz.so.1") == 6
    assert policy.line("program", "resolvers") == 4, "the table, where the key is missing"
    assert policy.line("libz.so.1", "imports.libc.so.6") == 10
    assert policy.line("libz.so.1", "imports.libm.so.6", "imports") == 9
    assert policy.line("nobody") == 0


@pytest.mark.parametrize(
    ("text", "code", "message", "line"),
    [
        ("a = [", "bad-policy", "not a TOML file", None),
        ("objcts = {}", "bad-policy", "unknown key `objcts`", None),
        ('[objects."a"]\nimport = {}', "bad-policy", "unknown key `import`", 2),
        ('[objects."a"]\nresolvers = 1', "bad-policy", "`resolvers` is no bool", 2),
        ('[objects."a"]\n\npath = true', "bad-policy", "`path` is no str", 3),
        ('[objects."a"]\nopens = "b"', "bad-policy", "`opens` is no list", 2),
        ('[objects."a"]\nopens = ["b", "b"]', "bad-policy", "`b` is listed twice", 2),
        ('[objects."a"]\nimports."b" = "*"', "bad-policy", '`imports."b"` is no list', 2),
        ('[objects."a"]\nimports."b" = ["*", "*"]', "bad-policy", "`*` is listed twice", 2),
        ('[objects."a"]\nimports = []', "bad-policy", "`imports` is a table of lists", 2),
        ('[objects."a"]\nimports."libc.so.6" = ["memry"]', "unknown-interface",
         "`libc.so.6` has no interface `memry`", 2),
        ('[objects."a"]\n\ninterposes."b" = ["memory"]', "unknown-interface",
         "`b` has no interface `memory`", 3),
        ('[objects]\na = 1', "bad-policy", "`objects.a` is no table", None),
        ('[interfaces.b]\nx = "y"', "bad-policy", "the interface `x` of `b` is no list", None),
        ('[objects."a"]\n[objects."a"]', "bad-policy", "not a TOML file", None),
    ],
)  # fmt: skip
def test_what_is_wrong(
    tmp_path: Path, text: str, code: str, message: str, line: int | None
) -> None:
    found = wrong(tmp_path, text)
    assert found[0] == f"authorise/{code}"
    assert found[1].startswith(message)
    assert found[2] == (None if line is None else f"line {line}")


def test_a_file_that_is_not_there_or_that_anybody_may_change(tmp_path: Path) -> None:
    with pytest.raises(LinkError) as caught:
        read_policy(str(tmp_path / "nothing.toml"), None)
    assert caught.value.code == "authorise/no-policy"
    file = tmp_path / "policy.toml"
    file.write_text(GOOD)
    file.chmod(0o666)
    with pytest.raises(LinkError) as caught:
        read_policy(str(file), file.read_bytes())
    assert caught.value.code == "authorise/not-private"
