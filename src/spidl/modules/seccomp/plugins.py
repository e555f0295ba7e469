"""What programs open at run time: which files may come, and what they call by name.

A plug-in takes part like an object of the link, with everything that it exports: whoever opened it
looks names up in it.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence

DEFAULTS: Mapping[str, Sequence[str]] = {
    "libcrypto.so.3": ("$LIB/ossl-modules", "$LIB/engines-3"),
    "libcrypto.so.1.1": ("$LIB/engines-1.1",),
    "libperl.so.5.*": ("$LIB/perl/5.*", "$LIB/perl5/5.*", "$LIB/perl-base"),
    "perl*": ("$LIB/perl/5.*", "$LIB/perl5/5.*", "$LIB/perl-base"),
    "libpython3*.so*": ("/usr/lib/python3.*/lib-dynload",),
    "python3*": ("/usr/lib/python3.*/lib-dynload",),
    "libpam.so.0": ("$LIB/security", "/lib/x86_64-linux-gnu/security"),
    "libsasl2.so.2": ("$LIB/sasl2",),
    "libkrb5.so.3": ("$LIB/krb5/plugins",),
    "libgnutls.so.30": ("$LIB/pkcs11",),
    "libasound.so.2": ("$LIB/alsa-lib",),
}
"""By the name of the object that opens them (`fnmatch`): folders, as `files_in` takes them."""

_CAPSET, _PRCTL = ("capset",), ("capset", "prctl")
ASSUMED: Mapping[str, Mapping[str, Sequence[str]]] = {
    "libcap.so.2": {
        "cap_set_proc": _CAPSET,
        "capsetp": _CAPSET,
        **dict.fromkeys(("cap_drop_bound", "cap_iab_set_proc", "cap_prctlw", "cap_reset_ambient",
                         "cap_set_ambient", "cap_set_mode", "cap_set_secbits"), _PRCTL),
        "cap_setuid": (*_PRCTL, "setuid"),
        "cap_setgroups": (*_PRCTL, "setgid", "setgroups"),
        "cap_launch": (*_PRCTL, "chroot", "setgid", "setgroups", "setuid"),
    },
}  # fmt: skip
"""Libraries that make calls through pointers which no analysis follows: what their exports make
(libcap/cap_proc.c of libcap 2.66, where they go through `struct syscaller_s`)."""

IMAGES = (
    "arch_prctl", "brk", "close", "execveat", "faccessat", "fcntl", "fstat", "getcwd", "geteuid",
    "getpid", "gettid", "mmap", "mprotect", "msync", "newfstatat", "openat", "prctl", "prlimit64",
    "read", "readlink", "rseq", "rt_sigaction", "seccomp", "set_robust_list", "set_tid_address",
    "uname", "writev",
)  # fmt: skip
"""What boot and the launcher ask for where a kept link starts (boot/, launcher/): who may start
programs may start enabled ones, and images with filters of their own."""

OPENERS = ("dlopen", "dlmopen", "g_module_open", "g_module_open_full", "lt_dlopenext")
LOOKERS = ("dlsym", "dlvsym")

_NSS = """
    getaddrinfo getaddrinfo_a getlogin getlogin_r getnameinfo
    getalias(byname|byname_r|ent|ent_r)
    getgr(ent|ent_r|gid|gid_r|nam|nam_r|ouplist) initgroups
    gethost(byaddr|byaddr_r|byname|byname2|byname2_r|byname_r|ent|ent_r)
    getnet(byaddr|byaddr_r|byname|byname_r|ent|ent_r)
    getnetgr(ent|ent_r) setnetgrent innetgr
    getproto(byname|byname_r|bynumber|bynumber_r|ent|ent_r)
    getpw(|ent|ent_r|nam|nam_r|uid|uid_r)
    getrpc(byname|byname_r|bynumber|bynumber_r|ent|ent_r)
    getserv(byname|byname_r|byport|byport_r|ent|ent_r)
    getsg(ent|ent_r|nam|nam_r) getsp(ent|ent_r|nam|nam_r)
    ether_(hostton|ntohost) (glob|glob64|wordexp|cuserid)
    iruserok iruserok_af rcmd rcmd_af rexec rexec_af ruserok ruserok_af
    __nss_(configure_lookup|database_lookup|database_lookup2)
"""
"""Functions of glibc that ask the services of nsswitch.conf (nsswitch.conf(5)), as patterns; glob,
wordexp and getlogin do for names of users."""
GCONV = frozenset({"iconv_open", "setlocale", "newlocale", "fopen", "fopen64", "freopen"})
"""Functions of glibc after which it may open a converter: iconv(3), or a locale's charset."""
GCONV_CALLS = frozenset(
    {
        *("__assert_fail", "__cxa_finalize", "__gconv_transliterate", "__rawmemchr"),
        *("__stack_chk_fail", "__strcasecmp", "_dl_mcount_wrapper_check"),
        *("abort", "free", "malloc", "strcmp"),
    }
)
"""All that glibc's own converters call (iconvdata/); they make no system calls themselves.  There
are 250 files of them, which need not be read for that."""


def _spelled_out(patterns: str) -> frozenset[str]:
    names = set()
    for pattern in patterns.split():
        before, _, rest = pattern.partition("(")
        parts, _, behind = rest.partition(")")
        names |= {before + part + behind for part in parts.split("|")}
    return frozenset(names)


NSS = _spelled_out(_NSS)

_SERVICE = re.compile(r"^\s*[a-z]+:\s*(.*)$", re.MULTILINE)


def nss_services(configuration: bytes | None) -> list[str]:
    """Libraries of the services in nsswitch.conf, or of glibc's defaults without one."""
    text = (configuration or b"passwd: files\nhosts: dns files\n").decode(errors="replace")
    words = re.sub(r"#.*|\[[^\]]*\]", " ", text)
    services = {word for line in _SERVICE.findall(words) for word in line.split()}
    return [f"libnss_{service}.so.2" for service in sorted(services)]


def folders_for(name: str, declared: Mapping[str, Sequence[str]], libraries: str) -> Iterator[str]:
    """Where the plug-ins of an object are; ``libraries`` is the folder of its libc."""
    for table in (declared, DEFAULTS):
        for pattern, folders in table.items():
            if fnmatch.fnmatchcase(name, pattern):
                for folder in folders:
                    yield folder.replace("$LIB", libraries)


def files_in(pattern: str) -> list[str]:
    """ELF objects at a path, which may have wildcards: files, or all ``*.so*`` below folders."""
    found: dict[str, None] = {}
    for path in sorted(glob.glob(pattern, recursive=True)):
        below = sorted(glob.glob(f"{glob.escape(path)}/**/*.so*", recursive=True))
        for file in below if os.path.isdir(path) else [path]:
            real = os.path.realpath(file)
            if os.path.isfile(real) and _is_shared(real):
                found[real] = None
    return list(found)


def _is_shared(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError:
        return False
    return head[:6] == b"\x7fELF\x02\x01" and head[16:20] == b"\x03\x00\x3e\x00"
