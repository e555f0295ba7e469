"""Programs of this system with libraries of Debian 11 (Mesa's GL, OpenSSL 1.1 and others) and of
Debian 13, with its newer libc.

    python3 -m tests.survey.capsules [--fresh]

The roots are made once by debootstrap and kept; that of Debian 13 is `trixie`'s.  Needs root, Xvfb,
glxinfo, glxgears, bsdtar, openssl, python3, and a compiler.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.programs.capsules import toml
from tests.programs.harness import PLAIN_WAY, run, spidl

from . import trixie
from .roots import make_root

SUITE = "bullseye"
PACKAGES = """
    libarchive13 libcurl4 libgl1 libgl1-mesa-dri libglx-mesa0 libpng16-16 libsqlite3-0 libssl1.1
    libstdc++6 zlib1g
""".split()  # noqa: SIM905 - a list of this length reads better as words
X11 = ["libX*", "libxcb*"]
"""Its structures go from programs to libGL and its drivers."""
_TIMED_OUT = 124
"""What timeout(1) ends with."""
_OPENSSL = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
const char *OpenSSL_version(int);
unsigned char *SHA256(const unsigned char *, unsigned long, unsigned char *);
int main(void) {
  unsigned char old[32], new[32];
  void *plugin = dlopen("libcrypto.so.3", RTLD_NOW);
  if (!plugin) return puts(dlerror()), 1;
  const char *(*version)(int) = (const char *(*)(int))dlsym(plugin, "OpenSSL_version");
  unsigned char *(*sha)(const unsigned char *, unsigned long, unsigned char *) =
      (unsigned char *(*)(const unsigned char *, unsigned long, unsigned char *))
          dlsym(plugin, "SHA256");
  SHA256((const unsigned char *)"abc", 3, old);
  sha((const unsigned char *)"abc", 3, new);
  printf("%.11s, %.9s, same %d\n", OpenSSL_version(0), version(0), !memcmp(old, new, 32));
  return 0;
}
"""
_SQLITE = """
import ctypes
base, rows = ctypes.c_void_p(), []
sqlite = ctypes.CDLL("libsqlite3.so.0")
sqlite.sqlite3_libversion.restype = ctypes.c_char_p
each = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int,
                        ctypes.POINTER(ctypes.c_char_p), ctypes.c_void_p)
assert sqlite.sqlite3_open(b":memory:", ctypes.byref(base)) == 0
sql = b"create table t (a); insert into t values (20), (22); select sum(a) from t"
call = each(lambda _, count, values, names: rows.append(values[0]) or 0)
assert sqlite.sqlite3_exec(base, sql, call, None, None) == 0
print(sqlite.sqlite3_libversion().decode(), rows)
"""


class Survey:
    """Each check says what it found; the failures are counted."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.failed = 0

    def check(
        self, name: str, argv: list[str], library: str, expected: str, *more: str,
        shared: list[str] | None = None, env: Mapping[str, str] | None = None,
        seconds: int = 0,
    ) -> None:  # fmt: skip
        """Run a program with a library, or ``more``, of the root, for so many ``seconds`` if it
        does not end by itself; its output must fit ``expected``."""
        settings: dict[str, object] = {"root": str(self.root), "libraries": [library, *more]}
        settings["shared"] = shared or []
        image = self.folder / f"{Path(argv[0]).name}-{library}"
        config = Path(f"{image}.toml")
        config.write_text(toml({SUITE: settings}))
        built = spidl(["build", f"--config={config}", "-o", str(image), argv[0]])
        if built.status:
            self._say(name, False, str(built))
            return
        limited = ["timeout", str(seconds)] if seconds else []
        done = run([*limited, str(image), *argv[1:]], timeout=120,
                   env={**os.environ, **(env or {}), "SPIDL_VERBOSE": "1"})  # fmt: skip
        fits = re.search(expected, done.stdout.decode(errors="replace"), re.MULTILINE)
        used = PLAIN_WAY not in done.stderr
        ended = done.status == (_TIMED_OUT if seconds else 0)
        self._say(name, fits is not None and used and ended, str(done))

    def _say(self, name: str, ok: bool, detail: str) -> None:
        self.failed += not ok
        print(f"{'ok    ' if ok else 'FAILED'} {name}" + ("" if ok else f"\n{detail}"), flush=True)


def survey(survey: Survey, display: str) -> None:
    """Everything."""
    work = survey.folder
    x = {"DISPLAY": display}
    mesa = r"OpenGL version string: \d\.\d Mesa 20\.3"
    survey.check("glxinfo: Mesa and LLVM", ["/usr/bin/glxinfo", "-B"], "libGL.so.1", mesa,
                 shared=X11, env=x)  # fmt: skip
    survey.check("glxinfo: all of it", ["/usr/bin/glxinfo"], "libGL.so.1", mesa, shared=X11, env=x)
    survey.check("glxgears", ["/usr/bin/glxgears"], "libGL.so.1",
                 r"^\d+ frames in \d\.\d seconds", shared=X11, env=x, seconds=7)  # fmt: skip
    survey.check("bsdtar: libarchive", ["/usr/bin/bsdtar", "--version"], "libarchive.so.13",
                 r"libarchive 3\.4\.3 zlib/1\.2\.11 liblzma/5\.2\.5")  # fmt: skip
    survey.check(
        "python3: zlib",
        ["/usr/bin/python3", "-c", "import zlib; print(zlib.ZLIB_RUNTIME_VERSION)"],
        "libz.so.1",
        r"^1\.2\.11$",
    )
    survey.check("python3: libsqlite3 by ctypes", ["/usr/bin/python3", "-c", _SQLITE],
                 "libsqlite3.so.0", r"^3\.34\.1 \[b'42'\]$")  # fmt: skip
    source, program = work / "openssl.c", work / "openssl"
    source.write_text(_OPENSSL)
    libraries = survey.root / "usr/lib/x86_64-linux-gnu"
    subprocess.run(["gcc", "-o", program, source, libraries / "libcrypto.so.1.1",
                    "-Wl,--allow-shlib-undefined"], check=True)  # fmt: skip
    survey.check("OpenSSL 1.1, and 3 beside it", [str(program)], "libcrypto.so.1.1",
                 r"^OpenSSL 1\.1, OpenSSL 3, same 1$")  # fmt: skip


def newer_libc(survey: Survey) -> None:
    """OpenSSL of Debian 13 asks for a newer libc than Debian 12 has: that root's serves both."""
    survey.check("openssl: Debian 13's, with its libc", ["/usr/bin/openssl", "version"],
                 "libssl.so.3", r"Library: OpenSSL 3\.5\.", "libcrypto.so.3")  # fmt: skip


def main() -> None:
    """Exit with 1 where anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fresh", action="store_true", help="make the root again")
    parser.add_argument("--root", type=Path, help="a root that is there already")
    options = parser.parse_args()
    root = options.root or make_root(SUITE, PACKAGES, options.fresh)
    display = ":97"
    with tempfile.TemporaryDirectory(prefix="spidl-capsules-") as folder:
        server = subprocess.Popen(["Xvfb", display, "-screen", "0", "640x480x24"],
                                  stderr=subprocess.DEVNULL)  # fmt: skip
        try:
            found = Survey(root, Path(folder))
            survey(found, display)
            newer = Survey(make_root("trixie", trixie.PACKAGES, options.fresh), Path(folder))
            newer_libc(newer)
        finally:
            server.terminate()
            server.wait()
    sys.exit(found.failed + newer.failed > 0)


if __name__ == "__main__":
    main()
