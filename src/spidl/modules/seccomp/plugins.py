"""What programs open at run time: which files may come, and what they call by name.

A plug-in takes part like an object of the link, with everything that it exports: whoever opened it
looks names up in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from spidl.modules.seccomp.folders import PASS_ON
from spidl.modules.seccomp.listing import Listing

_CAPSET, _PRCTL, _SECCOMP = ("capset",), ("capset", "prctl"), ("prctl", "seccomp")
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
    "libseccomp.so.2": dict.fromkeys(
        ("seccomp_api_get", "seccomp_api_set", "seccomp_attr_get", "seccomp_attr_set",
         "seccomp_init", "seccomp_load", "seccomp_merge", "seccomp_notify_alloc",
         "seccomp_notify_fd", "seccomp_notify_id_valid", "seccomp_notify_receive",
         "seccomp_notify_respond", "seccomp_reset"), _SECCOMP,
    ),
}  # fmt: skip
"""Libraries whose calls have numbers that no analysis follows: what their exports make
(libcap/cap_proc.c of libcap 2.66, where they go through `struct syscaller_s`; src/system.c of
libseccomp 2.5.4, where `state.nr_seccomp` has the number)."""

IMAGES = (
    "arch_prctl", "brk", "close", "execveat", "faccessat", "fcntl", "fstat", "getcwd", "geteuid",
    "getpid", "gettid", "mmap", "mprotect", "msync", "newfstatat", "openat", "prctl", "prlimit64",
    "read", "readlink", "rseq", "rt_sigaction", "seccomp", "set_robust_list", "set_tid_address",
    "time", "uname", "utimensat", "writev",
)  # fmt: skip
"""What boot and the launcher ask for where a kept link starts (boot/, launcher/): who may start
programs may start enabled ones, and images with filters of their own."""

CAPSULES = (
    "close", "fstat", "futex", "gettid", "mmap", "munmap", "openat", "openat2", "readlink",
)  # fmt: skip
"""What the code asks for that finds libraries inside of a capsule's root (boot/spaces.c)."""

OWN = ("futex_waitv", "get_mempolicy", "ioprio_get", "kcmp", "mbind", "membarrier",
       "sched_getattr", "set_mempolicy")  # fmt: skip
"""What libraries ask the kernel for themselves because libc has no function for it (OpenBLAS,
libnuma, Mesa, liburcu): nothing of it gives a process more than it had."""

OPENERS = ("dlopen", "dlmopen", *(name for names in PASS_ON.values() for name in names))
"""Functions that open what an argument names: of libc, and of what passes that on."""
LOOKERS = ("dlsym", "dlvsym", "g_module_symbol", "lt_dlsym", "uv_dlsym", "apr_dso_sym",
           "xmlModuleSymbol", "PR_FindSymbol", "PR_FindFunctionSymbol", "SDL_LoadFunction",
           "krb5int_get_plugin_data", "krb5int_get_plugin_func")  # fmt: skip
"""The same for functions that look up symbols."""

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

_LIBRARY = re.compile(r"[\w./+-]+\.so(?:\.[0-9]+)*\b")
_SERVICE = re.compile(r"^\s*[a-z]+:\s*(.*)$", re.MULTILINE)


def nss_services(configuration: bytes | None) -> list[str]:
    """Libraries of the services in nsswitch.conf, or of glibc's defaults without one."""
    text = (configuration or b"passwd: files\nhosts: dns files\n").decode(errors="replace")
    words = re.sub(r"#.*|\[[^\]]*\]", " ", text)
    services = {word for line in _SERVICE.findall(words) for word in line.split()}
    return [f"libnss_{service}.so.2" for service in sorted(services)]


def spellings(name: str) -> list[str]:
    """What a name that is told to dlopen, g_module_open or lt_dlopenext may stand for; none for
    the program itself."""
    if not name:
        return []
    folder, base = os.path.split(name)
    return [name, f"{name}.so", os.path.join(folder, f"lib{base}.so")]


def files_in(pattern: str, listing: Listing | None = None) -> list[str]:
    """ELF objects at a path, which may have wildcards: files, or all ``*.so*`` below folders."""
    found: dict[str, None] = {}
    listing = listing or Listing()
    for path in listing.glob(pattern):
        for file in listing.below(path, "*.so*") if os.path.isdir(path) else [path]:
            real = listing.realpath(file)
            if os.path.isfile(real) and _is_shared(real):
                found[real] = None
    return list(found)


def folders_at(pattern: str, listing: Listing | None = None) -> list[str]:
    """Folders at a path, which may have wildcards."""
    return [path for path in (listing or Listing()).glob(pattern) if os.path.isdir(path)]


def files_at(pattern: str, listing: Listing | None = None) -> list[str]:
    """Files at a path, which may have wildcards."""
    return [path for path in (listing or Listing()).glob(pattern) if os.path.isfile(path)]


def libraries_in(text: bytes) -> list[str]:
    """Names and paths of libraries that a configuration file has, each once."""
    return list(dict.fromkeys(_LIBRARY.findall(text.decode("ascii", errors="replace"))))


def _is_shared(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError:
        return False
    return head[:6] == b"\x7fELF\x02\x01" and head[16:20] == b"\x03\x00\x3e\x00"
