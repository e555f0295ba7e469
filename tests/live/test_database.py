"""libpq and all it needs, loaded privately, talks to a real PostgreSQL server."""

from __future__ import annotations

import importlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_void_p
from importlib.util import find_spec
from pathlib import Path

import pytest

from spidl import live
from tests.needs import missing


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """A server of Debian's package on a socket in a new folder; gives the folder."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        missing("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="spidl-pg-", dir="/tmp"))
    # The server refuses to run as root.
    user = pwd.getpwnam("postgres") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
    os.chown(folder, user.pw_uid, user.pw_gid)
    account = (user.pw_uid, user.pw_gid) if os.getuid() == 0 else (None, None)

    def run(program: str, *arguments: str) -> None:
        with open(os.devnull, "w") as nothing:
            subprocess.run([programs[-1] / program, *arguments], check=True, stdout=nothing,
                           stderr=nothing, cwd="/", timeout=120, user=account[0],
                           group=account[1])  # fmt: skip

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield folder
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


class Client:
    """The few calls of libpq that a query takes."""

    def __init__(self, library: live.Library) -> None:
        self.connect = library.function("PQconnectdb", c_void_p, [c_char_p])
        self.error = library.function("PQerrorMessage", c_char_p, [c_void_p])
        self.exec = library.function("PQexec", c_void_p, [c_void_p, c_char_p])
        self.value = library.function("PQgetvalue", c_char_p, [c_void_p, c_int, c_int])
        self.tuples = library.function("PQntuples", c_int, [c_void_p])
        self.finish = library.function("PQfinish", None, [c_void_p])
        self.clear = library.function("PQclear", None, [c_void_p])
        self.version = library.function("PQlibVersion", c_int)()

    def query(self, folder: Path, text: str) -> list[bytes]:
        connection = self.connect(f"host={folder} user=tester dbname=postgres".encode())
        assert self.error(connection) == b""
        result = self.exec(connection, text.encode())
        assert self.error(connection) == b""
        rows = [self.value(result, row, 0) for row in range(self.tuples(result))]
        self.clear(result)
        self.finish(connection)
        return rows


def test_two_versions_of_libpq_talk_to_one_server(server: Path) -> None:
    spec = find_spec("psycopg2")
    if spec is None or spec.origin is None:
        missing("psycopg2-binary is not installed: pip install .[dev]")
    bundled = next(Path(spec.origin).parent.parent.glob("psycopg2_binary.libs/libpq-*"))
    debian, wheel = live.load("libpq.so.5"), live.load(bundled)
    assert len(debian.namespace.members) > 10
    clients = Client(debian), Client(wheel)
    assert clients[0].version != clients[1].version
    for client in clients:
        rows = client.query(server, "select generate_series(1, 1000) * 7")
        assert rows == [str(7 * i).encode() for i in range(1, 1001)]
    debian.close()
    wheel.close()


def test_psycopg2s_extension_is_loaded_privately(server: Path) -> None:
    if find_spec("psycopg2") is None:
        missing("psycopg2-binary is not installed: pip install .[dev]")
    psycopg2 = importlib.import_module("psycopg2")
    module = live.import_extension("psycopg2._psycopg", psycopg2._psycopg.__file__)
    assert module is not psycopg2._psycopg
    connection = module._connect(f"host={server} user=tester dbname=postgres")
    cursor = connection.cursor()
    cursor.execute("select 6 * %s", (7,))
    assert cursor.fetchone() == (42,)
    connection.close()
