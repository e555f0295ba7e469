"""What a program opens and looks up at run time joins in; what cannot be known is said."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from spidl.analyse import Class, Summary, summary_of
from spidl.api import POST_COLLECT, Dso, ElfFile, Link, Module, Pipeline, number_of
from spidl.elf import DT, STB, STT, R, name_hash
from spidl.modules.seccomp import DECISION, SUMMARISE, Decision, Seccomp
from spidl.modules.seccomp.decide import ALWAYS, VDSO
from spidl.modules.seccomp.folders import DEFAULTS, places_of
from spidl.modules.seccomp.plugins import (
    GCONV_CALLS,
    NSS,
    OWN,
    files_in,
    libraries_in,
    nss_services,
)
from spidl.modules.seccomp.strings import libraries_named, strings_used
from spidl.testing import Define, Relocate, Undefined, build_dso, expect, memory_link, program

CODE = Define(b"\xc3", STT.FUNC)
CALLS = {"construct": 240, "run": 241, "helper": 242, "other": 243, "secret": 244}
"""What functions of the test do, by their names; `construct` is in every plug-in's class always."""


class ByName(Module):
    """Summaries after the names of functions: each makes its call, imports what the file does."""

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        pipeline.weak(POST_COLLECT, self.tell)

    def tell(self, link: Link) -> None:
        link.facts[SUMMARISE] = self.of

    def of(self, file: ElfFile) -> Summary:
        imports = []
        exports: dict[tuple[str, str | None], int] = {}
        addresses = {}
        classes = [Class(frozenset(), frozenset())]
        for index in range(1, len(file.symbols)):
            name, symbol = file.symbol_name(index), file.symbols[index]
            if not int(symbol["st_shndx"]):
                imports.append((name, None))
            elif int(symbol["st_info"]) & 15 == STT.FUNC:
                addresses[int(symbol["st_value"])] = exports[name, None] = len(classes)
                calls = {CALLS[name]} if name in CALLS else set()
                classes.append(Class(frozenset(calls), frozenset()))
        everything = frozenset(range(len(imports)))
        classes = [Class(c.syscalls, everything if at else c.imports)
                   for at, c in enumerate(classes)]  # fmt: skip
        always = 0
        if "plug" in (file.soname or ""):
            always = len(classes)
            classes.append(Class(frozenset({CALLS["construct"]}), frozenset()))
        classes.append(Class(frozenset(), everything))
        classes = [
            replace(c, unknown=True) if at and file.soname == "libseccomp.so.2" else c
            for at, c in enumerate(classes)
        ]
        return Summary(
            build_id="", soname=file.soname or "", needed=file.needed, imports=tuple(imports),
            classes=tuple(classes), always=always, exports=exports, addresses=addresses,
            entry=len(classes) - 1 if file.interp else None,
            wrappers={("syscall", None): 0} if ("syscall", None) in exports else {},
        )  # fmt: skip


def strings(*texts: str, at: str | None = None) -> tuple[dict[str, Define], list[Relocate]]:
    """Symbols and relocations of strings, to each of which a word points: to where ``at`` begins
    in it, if given."""
    content, offsets = b"\0", []
    for text in texts:
        offsets.append(len(content) + (text.rindex(at) if at else 0))
        content += text.encode() + b"\0"
    symbols = {
        "texts": Define(content, STT.OBJECT), "words": Define(bytes(8 * len(texts)), STT.OBJECT),
    }  # fmt: skip
    words = [Relocate("words", R.R64, symbol="texts", offset=8 * i, addend=offset)
             for i, offset in enumerate(offsets)]  # fmt: skip
    return symbols, words


def host(*texts: str, asks: Sequence[str] = ("dlopen",), at: str | None = None) -> bytes:
    """A library with strings; its function `f` asks libd.so."""
    symbols, words = strings(*texts, at=at)
    return build_dso(
        "libhost.so", {"f": CODE, **symbols}, needed=["libd.so"], undefined=asks, relocations=words
    )


LIBD = build_dso("libd.so", {"dlopen": CODE, "dlsym": CODE})


def decided(
    content: bytes, more: Mapping[str, bytes] | None = None, **settings: object
) -> Decision:
    """Of a program that calls `f` of libhost.so, and asks itself as libhost.so does: what its
    relocations bind.  What it opens beyond what is foreseen gets no more calls, unless a setting
    says so."""
    main = program(["f", *sorted(_undefined(content))], needed=["libhost.so", "libd.so"])
    libraries = {"libhost.so": content, "libd.so": LIBD, **(more or {})}
    seccomp = Seccomp(**{"open_ended": "deny", **settings})  # type: ignore[arg-type]
    link = memory_link(main, libraries, [ByName(), seccomp])
    link.run()
    return link.facts[DECISION]


def _undefined(content: bytes) -> set[str]:
    file = ElfFile.parse(content, "libhost.so")
    return {file.symbol_name(i) for i in range(1, len(file.symbols))
            if not int(file.symbols[i]["st_shndx"])}  # fmt: skip


def reached(decision: Decision) -> set[int]:
    return set(decision.allowed - ALWAYS.keys() - VDSO.keys())


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """libplug.so, which needs libhelper.so beside it."""
    (tmp_path / "libhelper.so").write_bytes(
        build_dso("libhelper.so", {"helper": CODE, "other": CODE})
    )
    path = tmp_path / "libplug.so"
    path.write_bytes(
        build_dso(
            "libplug.so", {"secret": CODE}, needed=["libhelper.so"],
            undefined=[Undefined("helper")], tags=[(DT.RUNPATH, "$ORIGIN")],
        )
    )  # fmt: skip
    return path


PLUGGED = {CALLS["construct"], CALLS["secret"], CALLS["helper"]}


def test_a_library_that_is_named_and_may_be_opened(plugin: Path) -> None:
    decision = decided(host(str(plugin)))
    assert reached(decision) == PLUGGED
    opened = [m.name for m in decision.reach.members if m.because]
    assert opened == ["libplug.so", "libhelper.so"]


def test_without_dlopen_nothing_is_opened(plugin: Path) -> None:
    assert reached(decided(host(str(plugin), asks=()))) == set()


def test_plug_ins_that_are_declared(plugin: Path) -> None:
    plugins = {"libhost*": [str(plugin.parent)]}
    everything = PLUGGED | {CALLS["other"]}
    assert reached(decided(host(), plugins=plugins)) == everything, "any file there may be opened"
    plugins = {"libhost.so": [f"{plugin.parent}/libp*.so"]}
    assert reached(decided(host(), plugins=plugins)) == PLUGGED


def test_strictly_only_what_is_known(plugin: Path) -> None:
    with expect("seccomp/open-ended"):
        decided(host(), strict=True)
    declared = {"libhost.so": [str(plugin)], "program": [str(plugin)]}
    assert reached(decided(host(), strict=True, plugins=declared)) == PLUGGED


@pytest.mark.parametrize("text", ["run", "rerun", "path/to/run", "x run"])
def test_names_that_are_looked_up(text: str) -> None:
    """A string that ends with the name may be where the linker has put the name."""
    more = {"libd.so": build_dso("libd.so", {"dlsym": CODE, "run": CODE, "other": CODE})}
    assert reached(decided(host(text, asks=["dlsym"], at="run"), more)) == {CALLS["run"]}
    assert reached(decided(host(text, asks=[], at="run"), more)) == set()
    unused = host(text, asks=["dlsym"], at="n")
    assert reached(decided(unused, more)) == set(), "nothing refers to where the name begins"


def test_names_that_begin_alike_are_others() -> None:
    more = {"libd.so": build_dso("libd.so", {"dlsym": CODE, "run": CODE})}
    assert reached(decided(host("runs", "ru", "run_", asks=["dlsym"]), more)) == set()


def test_looking_up_what_makes_any_call() -> None:
    more = {"libd.so": build_dso("libd.so", {"dlsym": CODE, "syscall": CODE})}
    declared: dict[str, list[str]] = {"libhost.so": [], "program": []}
    with expect("seccomp/unknown") as error:
        decided(host("syscall", asks=["dlsym"]), more, strict=True, plugins=declared)
    assert "looks a function up by name that is told the number" in str(error.diagnostic)


def used(file: ElfFile, names: Iterable[str]) -> set[str]:
    """Those of the names that the file has a use for."""
    hashes = set(strings_used(file)["hash"].tolist())
    return {name for name in names if name_hash(name.encode()) in hashes}


def test_code_and_data_refer_to_names(tmp_path: Path) -> None:
    """As compilers do it: in code, in data of every kind, in a program at fixed addresses."""
    source = tmp_path / "names.c"
    source.write_text("""
        const char *in_data = "from_data";
        int puts(const char *);
        int main(int n, char **v) {
            static const char *const table[] = {"from_table", "from_table_too"};
            puts("from_code"); puts("longer_from_tail"); puts("from_tail"); puts("");
            return puts(table[n]);
        }
    """)
    names = {"from_data", "from_code", "from_table", "from_table_too", "from_tail"}
    for flags in (["-fPIE", "-pie"], ["-no-pie"], ["-fPIE", "-pie", "-Wl,-z,pack-relative-relocs"]):
        program = tmp_path / "names"
        subprocess.run(["gcc", "-O1", "-o", program, source, *flags], check=True)
        file = ElfFile.open(str(program))
        assert used(file, [*names, "code", "rom_code", "from_cod", "tail", "main"]) == names, flags


def test_converters_call_what_is_known() -> None:
    """What is said of glibc's 250 converters, compared with those of this machine."""
    folder = Path("/usr/lib/x86_64-linux-gnu/gconv")
    paths = sorted(folder.glob("*.so"))
    assert len(paths) > 200, "libc-bin is not installed"
    libraries = {path.name for path in paths}
    for path in paths:
        file = ElfFile.open(str(path))
        assert set(file.needed) <= libraries | {"libc.so.6"}, path
        for index in range(1, len(file.symbols)):
            symbol = file.symbols[index]
            name = file.symbol_name(index)
            is_weak = int(symbol["st_info"]) >> 4 == STB.WEAK
            is_function = int(symbol["st_info"]) & 15 == STT.FUNC
            if not int(symbol["st_shndx"]) and is_function and not is_weak:
                assert name in GCONV_CALLS, f"{path} calls {name}"
        made = summary_of(file).masks
        assert not made.syscalls.any(), path
        assert not made.unknown.any(), path


def test_libraries_among_strings() -> None:
    texts = ("libone.so.2", "dlopen of /usr/lib/libtwo.so", "%s.so", "libthree.so.2x", ".so.1.2",
             "libfour.so.8:libfour.so.7")  # fmt: skip
    symbols, words = strings(*texts)
    content = build_dso("x", symbols, relocations=words)
    named = libraries_named(ElfFile.parse(content, "x"))
    assert named == ["/usr/lib/libtwo.so", "libfour.so.7", "libfour.so.8", "libone.so.2"]


def test_files_of_a_folder(plugin: Path) -> None:
    folder = plugin.parent
    (folder / "below").mkdir()
    (folder / "below" / "deep.so.1").write_bytes(plugin.read_bytes())
    (folder / "text.so").write_text("no ELF file")
    (folder / "again.so").symlink_to("libplug.so")
    found = [Path(path).name for path in files_in(str(folder))]
    assert sorted(found) == ["deep.so.1", "libhelper.so", "libplug.so"]
    assert files_in(f"{folder}/nothing") == []


def test_services_of_nsswitch() -> None:
    text = b"# passwd: old\npasswd: files systemd # why\nhosts: files [NOTFOUND=return] dns\n"
    assert nss_services(text) == ["libnss_dns.so.2", "libnss_files.so.2", "libnss_systemd.so.2"]
    assert nss_services(None) == ["libnss_dns.so.2", "libnss_files.so.2"]
    assert {"getpwnam_r", "getaddrinfo", "gethostbyname2_r", "getpw", "getgrouplist"} <= NSS


def test_places_that_are_known(tmp_path: Path) -> None:
    def folders(name: str, declared: Mapping[str, Sequence[str]] = {}) -> tuple[str, ...]:
        return places_of(name, f"{tmp_path}/{name}", declared, "/lib/x").folders

    assert folders("libgvc.so.6") == ("/lib/x/graphviz",)
    assert folders("libjli.so") == (str(tmp_path),)
    assert folders("libgvc.so.6", {"libgvc*": ["$ORIGIN/more"]}) == (
        f"{tmp_path}/more", "/lib/x/graphviz",
    )  # fmt: skip
    assert folders("libhost.so") == ()
    assert places_of("libjli.so", "/lib/x/libjli.so", {}, "/lib/x").folders == ()


@pytest.mark.parametrize(
    ("name", "declared", "is_all"),
    [
        ("libgvc.so.6", {}, True),
        ("libjvm.so", {}, False),
        ("libhost.so", {}, False),
        ("libhost.so", {"libhost*": []}, True),
        ("libhost.so", {"libhost*": ["/a", "*"]}, False),
        ("libjvm.so", {"libjvm.so": []}, True),
        ("libss.so.2", {}, True),
    ],
)
def test_whether_that_is_all(name: str, declared: dict[str, list[str]], is_all: bool) -> None:
    assert places_of(name, f"/lib/{name}", declared, "/lib").is_all is is_all


def test_a_table_that_reads_well() -> None:
    """Each object once, with places that begin at a root."""
    for name, words in DEFAULTS.items():
        assert all(word[0] in "/@$*" for word in words), name
        assert not any(word.startswith("$") and word[1:4] not in ("LIB", "ORI") for word in words)


def test_a_file_that_names_libraries(plugin: Path, tmp_path: Path) -> None:
    driver = tmp_path / "driver.json"
    driver.write_text(f'{{"ICD": {{"library_path": "{plugin}"}}}}')
    plugins = {"libhost.so": [f"@{tmp_path}/*.json"]}
    assert reached(decided(host(), plugins=plugins)) == PLUGGED
    assert libraries_in(b"a libx.so.1, /b/liby.so;c.sox\n") == ["libx.so.1", "/b/liby.so"]


def test_what_is_opened_unforeseen_may_call_all_exports() -> None:
    content = build_dso(
        "libhost.so", {"f": CODE, "run": CODE}, needed=["libd.so"], undefined=["dlopen"]
    )
    more = {"libd.so": build_dso("libd.so", {"dlopen": CODE, "other": CODE})}
    decision = decided(content, more, open_ended="exports")
    own = {number_of(call) for call in OWN}
    assert reached(decision) - own == {CALLS["run"], CALLS["other"]}
    told = {decision.reach.members[one.member].name for one in decision.open_ended}
    assert told == {"libhost.so", "program"}
    assert reached(decided(content, more, open_ended="deny")) == set()
    with expect("seccomp/open-ended"):
        decided(content, more, open_ended="refuse")


def test_libseccomp_makes_what_is_known(tmp_path: Path) -> None:
    """Its number is in memory: man and the like filter themselves."""
    host = build_dso(
        "libhost.so", {"f": CODE}, needed=["libseccomp.so.2"], undefined=["seccomp_load"]
    )
    more = {"libseccomp.so.2": build_dso("libseccomp.so.2", {"seccomp_load": CODE})}
    decision = decided(host, more, unknown="refuse")
    assert reached(decision) == {number_of("prctl"), number_of("seccomp")}
