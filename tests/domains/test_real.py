"""Libraries of the system as domains: what they need is a list, and somebody decides on it."""

from __future__ import annotations

from pathlib import Path

from spidl import domains
from spidl.domains import Domain, Interface
from spidl.testing import expect
from tests.needs import missing

from .conftest import Workshop

FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/usr/lib64", "/lib64", "/usr/lib")
ZLIB = Interface("""
unsigned long crc32(unsigned long before, const char *data, unsigned size);
int compress(char *to, unsigned long *n, const char *from, unsigned long size);
int uncompress(char *to, unsigned long *n, const char *from, unsigned long size);
void *gzopen(const char *path, const char *mode);
""")
SQLITE = Interface("""
typedef struct sqlite3 sqlite3;
int sqlite3_open(const char *path, sqlite3 **db);
int sqlite3_exec(sqlite3 *db, const char *sql, int (*row)(void *, int, char **, char **), void *of,
                 char **error);
int sqlite3_close(sqlite3 *db);
""")
REFUSE = """
int *__errno_location(void);
static int refused(void) { *__errno_location() = 13; return -1; }
int open(const char *path, int flags, ...) { return refused(); }
int open64(const char *path, int flags, ...) { return refused(); }
"""
OK, CANNOT_OPEN = 0, 14
"""SQLITE_OK and SQLITE_CANTOPEN of sqlite3.h."""


def library(name: str, package: str) -> Path:
    """The path of a library of the system."""
    found = [path for folder in FOLDERS if (path := Path(folder, name)).exists()]
    if not found:
        missing(f"{name} is not installed: apt-get install {package}")
    return found[0]


def without_files(workshop: Workshop, path: Path) -> Domain:
    """A running domain of a library that has all that it needs, but cannot open a file."""
    domain = Domain.create(path)
    refuse = workshop.domain("refuse", REFUSE)
    domains.resolve(Domain.from_process(["__errno_location"]), refuse)
    assert domains.resolve(refuse, domain)
    with expect("domain/unresolved"):  # nothing is there that nobody gave it
        domains.initialize(domain)
    domains.resolve(Domain.from_process(domain.unresolved), domain)
    domains.initialize(domain)
    return domain


def test_zlib_computes_and_opens_nothing(workshop: Workshop, tmp_path: Path) -> None:
    zlib = domains.client(without_files(workshop, library("libz.so.1", "zlib1g")), ZLIB)
    ffi = ZLIB.ffi
    assert zlib.crc32(0, b"hello", 5) == 0x3610A686
    text = b"safe linking " * 400
    packed, size = ffi.new("char[]", len(text)), ffi.new("unsigned long *", len(text))
    assert zlib.compress(packed, size, text, len(text)) == OK
    assert size[0] < 200
    plain, whole = ffi.new("char[]", len(text)), ffi.new("unsigned long *", len(text))
    assert zlib.uncompress(plain, whole, packed, size[0]) == OK
    assert ffi.buffer(plain, whole[0])[:] == text
    assert zlib.gzopen(str(tmp_path / "made.gz").encode(), b"w") == ffi.NULL
    assert not (tmp_path / "made.gz").exists()


def test_a_database_that_lives_in_memory_only(workshop: Workshop, tmp_path: Path) -> None:
    sqlite = domains.client(
        without_files(workshop, library("libsqlite3.so.0", "libsqlite3-0")), SQLITE
    )
    ffi = SQLITE.ffi
    rows: list[bytes] = []

    @ffi.callback("int(void *, int, char **, char **)")
    def row(of: object, count: int, values: list[object], names: object) -> int:
        rows.append(ffi.string(values[0]))
        return 0

    def query(path: bytes, sql: bytes) -> int:
        db = ffi.new("sqlite3 **")
        status: int = sqlite.sqlite3_open(path, db)
        if status == OK:
            status = sqlite.sqlite3_exec(db[0], sql, row, ffi.NULL, ffi.NULL)
        sqlite.sqlite3_close(db[0])
        return status

    sql = b"create table t(a); insert into t values (41), (1); select sum(a) from t"
    assert query(b":memory:", sql) == OK
    assert rows == [b"42"]
    assert query(str(tmp_path / "file.db").encode(), sql) == CANNOT_OPEN
    assert list(tmp_path.glob("file.db*")) == []
