"""Real libraries, loaded privately and used: the oracle is Python's own module or another way."""

from __future__ import annotations

import bz2
import ctypes
import hashlib
import lzma
import ssl
import sysconfig
import zlib
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_size_t, c_uint, c_ulong, c_void_p
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from spidl import live
from tests.needs import missing

pytestmark = pytest.mark.usefixtures("each_way")
DATA = b"The quick brown fox jumps over the lazy dog. " * 200


def _wheel(package: str, pattern: str) -> Path:
    """A library out of an installed wheel."""
    spec = find_spec(package)
    folder = Path(spec.origin).parent.parent if spec and spec.origin else Path("/nowhere")
    found = sorted(folder.glob(pattern))
    return found[0] if found else missing(f"{package} is not installed: pip install .[dev]")


def test_zlib() -> None:
    with live.load("libz.so.1") as z:
        crc32 = z.function("crc32", c_ulong, [c_ulong, c_char_p, c_uint])
        assert crc32(0, DATA, len(DATA)) == zlib.crc32(DATA)
        size, packed = c_ulong(len(DATA)), ctypes.create_string_buffer(len(DATA))
        compress = z.function("compress", c_int, [c_void_p, POINTER(c_ulong), c_char_p, c_ulong])
        assert compress(packed, byref(size), DATA, len(DATA)) == 0
        assert zlib.decompress(packed.raw[: size.value]) == DATA


def test_bzip2() -> None:
    with live.load("libbz2.so.1.0") as library:
        size, packed = c_uint(len(DATA)), ctypes.create_string_buffer(len(DATA))
        compress = library.function("BZ2_bzBuffToBuffCompress")
        assert compress(packed, byref(size), DATA, len(DATA), 9, 0, 0) == 0
        assert bz2.decompress(packed.raw[: size.value]) == DATA


def test_lzma() -> None:
    with live.load("liblzma.so.5") as library:
        size, packed = c_size_t(0), ctypes.create_string_buffer(len(DATA))
        encode = library.function("lzma_easy_buffer_encode", c_int, [
            c_uint, c_int, c_void_p, c_char_p, c_size_t, c_void_p, c_void_p, c_size_t,
        ])  # fmt: skip
        assert encode(6, 4, None, DATA, len(DATA), packed, byref(size), len(packed)) == 0
        assert lzma.decompress(packed.raw[: size.value]) == DATA


def test_sqlite_calls_back_into_python() -> None:
    row = ctypes.CFUNCTYPE(c_int, c_void_p, c_int, POINTER(c_char_p), POINTER(c_char_p))
    rows: list[tuple[bytes | None, ...]] = []

    def collect(_: object, count: int, values: ctypes._Pointer[c_char_p], __: object) -> int:
        rows.append(tuple(values[i] for i in range(count)))
        return 0

    each = row(collect)

    statements = b"create table t(a, b); insert into t values (1, 'x'), (2, null); select * from t"
    with live.load("libsqlite3.so.0") as sqlite:
        database = c_void_p()
        opened = sqlite.function("sqlite3_open", c_int, [c_char_p, POINTER(c_void_p)])
        execute = sqlite.function("sqlite3_exec", c_int,
                                  [c_void_p, c_char_p, row, c_void_p, c_void_p])  # fmt: skip
        assert opened(b":memory:", byref(database)) == 0
        assert execute(database, statements, each, None, None) == 0
        assert sqlite.function("sqlite3_close", c_int, [c_void_p])(database) == 0
    assert rows == [(b"1", b"x"), (b"2", None)]


def test_expat_calls_back_into_python() -> None:
    start = ctypes.CFUNCTYPE(None, c_void_p, c_char_p, POINTER(c_char_p))
    names: list[bytes] = []
    each = start(lambda _, name, attributes: names.append(name))
    end = ctypes.CFUNCTYPE(None, c_void_p, c_char_p)(lambda _, name: None)
    with live.load("libexpat.so.1") as expat:
        parser = expat.function("XML_ParserCreate", c_void_p, [c_char_p])(None)
        expat.function("XML_SetElementHandler", None, [c_void_p] * 3)(
            parser, ctypes.cast(each, c_void_p), ctypes.cast(end, c_void_p)
        )
        text = b"<a><b x='1'/><c>d</c></a>"
        parse = expat.function("XML_Parse", c_int, [c_void_p, c_char_p, c_int, c_int])
        assert parse(parser, text, len(text), 1) == 1
        expat.function("XML_ParserFree", None, [c_void_p])(parser)
    assert names == [b"a", b"b", b"c"]


def test_png_brings_a_zlib_of_its_own() -> None:
    with live.load("libpng16.so.16") as png:
        assert [m.name for m in png.namespace.members] == ["libpng16.so.16", "libz.so.1"]
        version = png.function("png_access_version_number", c_uint)()
        assert version // 10000 == 1
        create = png.function("png_create_read_struct", c_void_p, [c_char_p] + [c_void_p] * 3)
        made = c_void_p(create(b"1.6.0", None, None, None))
        assert made.value
        png.function("png_destroy_read_struct", None, [c_void_p] * 3)(byref(made), None, None)
        assert not made.value


def _digest(crypto: live.Library, data: bytes) -> bytes:
    out = ctypes.create_string_buffer(32)
    crypto.function("SHA256", c_void_p, [c_char_p, c_size_t, c_void_p])(data, len(data), out)
    return out.raw


def _version(crypto: live.Library) -> str:
    return str(crypto.function("OpenSSL_version", c_char_p, [c_int])(0).decode())


def test_three_openssl_side_by_side() -> None:
    """Debian's, a wheel's, and the one that CPython's ssl module runs on."""
    context = ssl.create_default_context()
    debian = live.load("libssl.so.3")
    wheel = live.load(_wheel("psycopg2", "psycopg2_binary.libs/libssl-*.so.3"))
    assert [Path(m.path).parent.name for m in wheel.namespace.members[:2]] == [
        "psycopg2_binary.libs"
    ] * 2
    for library in (debian, wheel):
        assert _digest(library, DATA) == hashlib.sha256(DATA).digest()
        method = library.function("TLS_client_method", c_void_p)()
        made = library.function("SSL_CTX_new", c_void_p, [c_void_p])(method)
        assert made
        library.function("SSL_CTX_free", None, [c_void_p])(made)
    assert _version(debian) != _version(wheel)
    assert context.cert_store_stats() == ssl.create_default_context().cert_store_stats()
    debian.close()
    wheel.close()


def test_openblas_out_of_numpys_wheel() -> None:
    path = _wheel("numpy", "numpy.libs/libscipy_openblas64_*.so")
    rng = np.random.default_rng(1)
    a, b = (np.asfortranarray(rng.random((200, 200))) for _ in range(2))
    c = np.zeros((200, 200), order="F")
    blas = live.load(path)
    n, one, zero = ctypes.c_int64(200), c_double(1), c_double(0)
    blas.function("scipy_dgemm_64_", None)(
        b"N", b"N", byref(n), byref(n), byref(n), byref(one), c_void_p(a.ctypes.data), byref(n),
        c_void_p(b.ctypes.data), byref(n), byref(zero), c_void_p(c.ctypes.data), byref(n),
    )  # fmt: skip
    assert np.allclose(c, a @ b)
    blas.close()


def test_llvm_reads_and_prints_a_module() -> None:
    found = sorted(Path("/usr/lib/x86_64-linux-gnu").glob("libLLVM-*.so.1"))
    path = found[0] if found else missing("libLLVM is not installed: apt-get install clang")
    with live.load(path) as llvm:
        context = llvm.function("LLVMContextCreate", c_void_p)()
        module = llvm.function("LLVMModuleCreateWithNameInContext", c_void_p, [c_char_p, c_void_p])(
            b"mine", context
        )
        text = llvm.function("LLVMPrintModuleToString", c_void_p, [c_void_p])(module)
        assert b"ModuleID = 'mine'" in ctypes.string_at(text)
        llvm.function("LLVMDisposeMessage", None, [c_void_p])(text)
        llvm.function("LLVMDisposeModule", None, [c_void_p])(module)
        llvm.function("LLVMContextDispose", None, [c_void_p])(context)


@pytest.mark.parametrize("name", ["_bz2", "_lzma", "_sqlite3", "_decimal"])
def test_extension_modules_of_cpython(name: str) -> None:
    folder = Path(sysconfig.get_config_var("DESTSHARED"))
    own = __import__(name)
    path = next(folder.glob(f"{name}.*.so"), None)
    if path is None:
        missing(f"this Python was built without {name}")
    module = live.import_extension(name, path)
    assert module is not own
    assert set(dir(own)) <= set(dir(module))
    if name == "_bz2":
        packer = module.BZ2Compressor()
        assert bz2.decompress(packer.compress(DATA) + packer.flush()) == DATA
    elif name == "_sqlite3":
        connection = module.connect(":memory:")
        assert connection.execute("select 6 * 7").fetchone() == (42,)
    elif name == "_decimal":
        assert str(module.Decimal("0.1") + module.Decimal("0.2")) == "0.3"
    else:
        assert module.is_check_supported(lzma.CHECK_CRC64)


def test_cffi_reads_declarations() -> None:
    with live.load("libz.so.1") as z:
        lib = z.cffi("const char *zlibVersion(void); unsigned long adler32(unsigned long, char *,"
                     " unsigned int);")  # fmt: skip
        assert lib.adler32(1, DATA, len(DATA)) == zlib.adler32(DATA)
