"""Two versions of one library at work in one process: out of wheels, Debian's, the process's own.

Wheels come through pip, once, into pytest's cache folder.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from ctypes import byref, c_char_p, c_double, c_int, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from spidl import live
from tests.needs import missing

Wheel = Callable[..., Path]
Script = Callable[..., str]


@pytest.fixture(scope="module")
def wheel(pytestconfig: pytest.Config) -> Wheel:
    """``wheel("numpy==1.26.4")`` gives the folder with what is in that wheel.

    With ``python`` it is the wheel of that version of CPython, otherwise of the one that runs.
    """

    def get(requirement: str, python: str | None = None) -> Path:
        cache = pytestconfig.cache
        assert cache is not None, "pytest's cache plug-in is off"
        tag = f"py{python or f'{sys.version_info.major}.{sys.version_info.minor}'}"
        folder = cache.mkdir("wheels") / f"{requirement}-{tag}"
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                _unpack(requirement, python, Path(temporary))
                try:  # another worker may have been faster
                    (Path(temporary) / "unpacked").rename(folder)
                except OSError:
                    assert folder.is_dir()
        return folder

    return get


def _unpack(requirement: str, python: str | None, into: Path) -> None:
    options = [] if python is None else ["--python-version", python]
    result = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
         "--no-deps", "--only-binary=:all:", *options, "--dest", into, requirement],
        capture_output=True, text=True,
    )  # fmt: skip
    found = sorted(into.glob("*.whl"))
    if result.returncode or not found:
        missing(f"pip does not get the wheel {requirement}: {result.stderr.strip()}")
    with zipfile.ZipFile(found[0]) as archive:
        archive.extractall(into / "unpacked")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    assert len(found) == 1, f"{folder}/{pattern}: {found}"
    return found[0]


class Blas:
    """The calls of one OpenBLAS; its names have a prefix and a suffix of the build."""

    def __init__(self, library: live.Library, name: str) -> None:
        self.library = library
        self.multiply_with = library.function(name % "dgemm_", None)
        self.config = str(library.function(name % "openblas_get_config", c_char_p)().decode())
        self.threads = library.function(name % "openblas_get_num_threads")
        self.set_threads = library.function(name % "openblas_set_num_threads", None, [c_int])

    def multiply(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """a @ b of two square matrices in column order."""
        n, one, zero = c_int64(len(a)), c_double(1), c_double(0)
        c = np.zeros_like(a)
        self.multiply_with(
            b"N", b"N", byref(n), byref(n), byref(n), byref(one), c_void_p(a.ctypes.data), byref(n),
            c_void_p(b.ctypes.data), byref(n), byref(zero), c_void_p(c.ctypes.data), byref(n),
        )  # fmt: skip
        return c


def _installed_openblas() -> Path:
    spec = find_spec("numpy")
    assert spec is not None
    assert spec.origin is not None
    found = sorted(Path(spec.origin).parent.parent.glob("numpy.libs/libscipy_openblas64_*.so"))
    return found[0] if found else missing("numpy is not the wheel of PyPI: pip install numpy")


def test_two_openblas_beside_the_one_that_numpy_runs_on(wheel: Wheel) -> None:
    libraries = wheel("numpy==1.26.4", python="3.11") / "numpy.libs"
    together = live.Namespace("older numpy")
    for pattern in ("libquadmath-*", "libgfortran-*"):  # OpenBLAS of that wheel has no RPATH
        live.load(_only(libraries, pattern), namespace=together)
    path = _installed_openblas()
    older = Blas(live.load(_only(libraries, "libopenblas64_*"), namespace=together), "%s64_")
    newer = Blas(live.load(path), "scipy_%s64_")
    own = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_NOW)  # numpy's instance
    own_threads = own.scipy_openblas_get_num_threads64_()
    assert "0.3.23" in older.config
    assert older.config.split()[:2] != newer.config.split()[:2]

    older.set_threads(1)
    newer.set_threads(2)
    assert (older.threads(), newer.threads()) == (1, 2)
    assert own.scipy_openblas_get_num_threads64_() == own_threads

    rng = np.random.default_rng(2)
    a, b = (np.asfortranarray(rng.random((160, 160))) for _ in range(2))
    expected = np.einsum("ij,jk->ik", a, b)  # without BLAS
    wrong: list[str] = []
    done: list[str] = []

    def run(name: str, multiply: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        for _ in range(20):
            if not np.allclose(multiply(a, b), expected):
                wrong.append(name)
        done.append(name)

    ways = {"older": older.multiply, "newer": newer.multiply, "own": np.matmul}
    threads = [threading.Thread(target=run, args=item) for item in list(ways.items()) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert sorted(done) == sorted([*ways] * 2)
    newer.library.close()
    assert np.allclose(older.multiply(a, b), expected)
    older.library.close()
    assert np.allclose(a @ b, expected)


class Picture(ctypes.Structure):
    """png_image of png.h, libpng 1.6."""

    _fields_ = (
        ("opaque", c_void_p), ("version", c_uint32), ("width", c_uint32), ("height", c_uint32),
        ("format", c_uint32), ("flags", c_uint32), ("colormap_entries", c_uint32),
        ("warning_or_error", c_uint32), ("message", ctypes.c_char * 64),
    )  # fmt: skip


class Png:
    """The simplified API of one libpng (png.h, PNG_IMAGE_VERSION 1)."""

    WIDTH, HEIGHT, RGBA = 33, 17, 3

    def __init__(self, library: live.Library) -> None:
        self.library = library
        self.version = library.function("png_get_libpng_ver", c_char_p, [c_void_p])(None)
        self._write = library.function("png_image_write_to_memory", c_int, [
            c_void_p, c_void_p, c_void_p, c_int, c_void_p, c_int32, c_void_p,
        ])  # fmt: skip
        self._begin = library.function(
            "png_image_begin_read_from_memory", c_int, [c_void_p, c_char_p, c_size_t]
        )
        self._finish = library.function(
            "png_image_finish_read", c_int, [c_void_p, c_void_p, c_void_p, c_int32, c_void_p]
        )

    def write(self, pixels: bytes) -> bytes:
        picture = Picture(version=1, width=self.WIDTH, height=self.HEIGHT, format=self.RGBA)
        size, out = c_size_t(1 << 16), ctypes.create_string_buffer(1 << 16)
        assert self._write(byref(picture), out, byref(size), 0, pixels, 0, None), picture.message
        return out.raw[: size.value]

    def read(self, content: bytes) -> bytes:
        picture = Picture(version=1)
        assert self._begin(byref(picture), content, len(content)), picture.message
        assert (picture.width, picture.height) == (self.WIDTH, self.HEIGHT)
        picture.format = self.RGBA
        out = ctypes.create_string_buffer(4 * self.WIDTH * self.HEIGHT)
        assert self._finish(byref(picture), None, out, 0, None), picture.message
        return out.raw


def test_png_of_a_wheel_and_of_debian_read_each_others_pictures(wheel: Wheel) -> None:
    folder = wheel("pillow==10.4.0") / "pillow.libs"
    both = [Png(live.load(path)) for path in (_only(folder, "libpng16-*"), "libpng16.so.16")]
    assert both[0].version == b"1.6.43"
    assert both[1].version != both[0].version
    zlibs = set()
    for png in both:
        users = {
            binding.name: binding
            for member in png.library.namespace.members
            for binding in member.bindings
            if binding.name in ("inflate", "deflate")
        }
        (zlib,) = (m for m in png.library.namespace.members if m.name == "libz.so.1")
        assert set(users) == {"inflate", "deflate"}
        for binding in users.values():  # each goes to the zlib of its own namespace
            assert zlib.start <= binding.address < zlib.end
        zlibs.add(zlib.start)
    assert len(zlibs) == 2
    pixels = np.random.default_rng(3).bytes(4 * Png.WIDTH * Png.HEIGHT)
    for writer, reader in (both, both[::-1]):
        assert reader.read(writer.write(pixels)) == pixels
    for png in both:
        png.library.close()


PILLOWS = """
import contextlib, io, sys
from pathlib import Path
from spidl import live

def entries():
    return {name: m for name, m in sys.modules.items() if name.partition(".")[0] == "PIL"}

class Pillow:
    def __init__(self, folder):
        self.folder, self.modules = folder, {}
        path = next(Path(folder, "PIL").glob("_imaging.*.so"))
        with self.using():
            self.core = live.import_extension("PIL._imaging", path)
            sys.modules["PIL._imaging"] = self.core
            from PIL import Image
            self.Image = Image
            assert Image.core is self.core and Image.__file__.startswith(folder)
            Image.init()

    @contextlib.contextmanager
    def using(self):
        sys.path.insert(0, self.folder)
        sys.modules.update(self.modules)
        try:
            yield
        finally:
            self.modules = entries()
            for name in self.modules:
                del sys.modules[name]
            sys.path.remove(self.folder)

    def write(self, kind, pixels):
        with self.using():
            out = io.BytesIO()
            options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
            self.Image.frombytes("RGB", (64, 48), pixels).save(out, kind, **options)
            return out.getvalue()

    def read(self, content):
        with self.using():
            return self.Image.open(io.BytesIO(content)).tobytes()

both = [Pillow(folder) for folder in sys.argv[1:3]]
pixels = bytes((x * y + c * 50) % 256 for y in range(48) for x in range(64) for c in range(3))
for kind in ("PNG", "TIFF", "JPEG2000"):  # without loss
    for writer, reader in (both, both[::-1]):
        assert reader.read(writer.write(kind, pixels)) == pixels, kind
for writer, reader in (both, both[::-1]):
    content = writer.write("JPEG", pixels)
    worst = max(abs(a - b) for a, b in zip(reader.read(content), writer.read(content)))
    assert worst <= 2, worst
for pillow in both:
    core = pillow.core
    print(core.PILLOW_VERSION, core.jp2klib_version, core.libtiff_version.split()[2].rstrip(","))
for item in live.libraries():
    print(item.namespace, item.path)
    for binding in item.bindings:
        if binding.name in ("jpeg_start_compress", "TIFFClientOpen", "opj_read_header"):
            print(item.namespace, binding.name, binding.provider)
"""


def test_two_pillows_with_libraries_of_their_own(wheel: Wheel, script: Script) -> None:
    folders = [wheel("pillow==10.4.0"), wheel("pillow==11.3.0")]
    lines = script(PILLOWS, *folders).splitlines()
    assert lines[:2] == ["10.4.0 2.5.2 4.6.0", "11.3.0 2.5.3 4.7.0"]
    calls = set()
    for line in lines[2:]:
        number = 0 if line.startswith("private-1 ") else 1
        if len(words := line.split()) == 3:
            calls.add((words[0], words[1]))
        assert str(folders[1 - number]) not in line
        if any(name in line for name in ("jpeg", "tiff", "openjp2", "opj_", "TIFF")):
            assert str(folders[number]) in line
    assert len(calls) == 6


LXMLS = """
import sys
from pathlib import Path
from threading import Thread
from spidl import live

both = []
for folder in sys.argv[1:3]:
    sys.path.insert(0, folder)
    path = next(Path(folder, "lxml").glob("etree.*.so"))
    both.append(live.import_extension("lxml.etree", path))
    sys.path.remove(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lxml"]:
        del sys.modules[name]
assert both[0]._Element is not both[1]._Element

def use(etree):
    for number in range(200):
        root = etree.fromstring(b"<a><b x='%d'>t</b></a>" % number)
        assert root.xpath("//b[@x=$n]/text()", n=str(number)) == ["t"]
        try:
            etree.fromstring("<a><b></a>")
        except etree.XMLSyntaxError as error:
            assert "mismatch" in str(error)
        else:
            raise AssertionError
    style = etree.XSLT(etree.fromstring(
        '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">'
        '<xsl:template match="/"><c><xsl:value-of select="a/b"/></c></xsl:template>'
        '</xsl:stylesheet>'))
    assert style(root).getroot().text == "t"
    done.append(etree)

done = []
threads = [Thread(target=use, args=[etree]) for etree in both * 2]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(done) == 4
for etree in both:
    print(etree.LXML_VERSION, etree.LIBXML_VERSION)
"""


def test_two_lxmls_with_the_libxml2_inside_each(wheel: Wheel, script: Script) -> None:
    out = script(LXMLS, wheel("lxml==5.2.2"), wheel("lxml==5.3.0"))
    assert out == "(5, 2, 2, 0) (2, 12, 6)\n(5, 3, 0, 0) (2, 12, 9)\n"
