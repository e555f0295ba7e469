"""What is known of certain builds from their debug files and their source.

A build-id stands for the bytes of one file, so what holds for it holds; of any other build nothing
is known and nothing assumed.  `tests/analyse/test_known.py` makes the tables anew.
"""

from __future__ import annotations

from typing import Final

OBJECTS: Final = {
    # glibc 2.36-9+deb12u14, libc.so.6
    "93ac61ec5a8eb1396f9fbd350e3169a558528a40": """
        1cf8f0+e8 1cf9d8+8 1cf9e0+a8 1cfaa0+a8 1cfb60+a8 1cfc20+a8 1cfce0+a8 1cfda0+a8 1cfe60+a8
        1cff20+a8 1cffe0+a8 1d00a0+a8 1d0160+a8 1d0220+a8 1d02e0+a8 1d03a0+a8 1d0460+a8 1d0520+a8
        1d05e0+a8 1d06a0+a8 1d0760+8 1d0780+68 1d0800+2e8 1d0af0+18 1d0b20+60 1d0b80+1a8 1d0d40+68
        1d0dc0+530 1d1300+50 1d1360+70 1d13e0+a0 1d1480+60 1d14e0+48 1d1540+b8 1d1600+d0 1d16e0+20
        1d1700+18 1d1720+18 1d1740+18 1d1760+18 1d1780+18 1d17a0+18 1d17c0+438 1d1c00+208 1d1e20+208
        1d2028+8 1d2040+20 1d2080+38 1d20c0+60 1d2120+38 1d2160+f0 1d2260+28 1d22a0+28 1d22e0+30
        1d2320+30 1d2360+30 1d23a0+50 1d2400+30 1d2440+30 1d2480+30 1d24c0+28 1d2500+28 1d2540+30
        1d2580+30 1d25c0+30 1d2600+30 1d2640+30 1d2680+50 1d26e0+50 1d2740+180 1d28c0+68 1d2940+e8
        1d2a40+68 1d2ac0+68 1d2b40+20 1d31c0+2 1d31c4+4 1d31c8+4 1d31e0+80 1d3260+4 1d3270+10
        1d3280+8 1d3288+4 1d328c+4 1d3290+4 1d3294+4 1d32a0+28 1d32e0+20 1d3300+4 1d3320+4 1d3328+8
        1d3340+88 1d33c8+4 1d33d0+8 1d33d8+8 1d33e0+8 1d33e8+8 1d33f0+8 1d33f8+8 1d3400+4 1d3404+4
        1d3408+4 1d340c+4 1d3410+4 1d3414+4 1d3418+4 1d341c+4 1d3420+68 1d3488+4 1d34a0+24 1d34c4+4
        1d34c8+4 1d34cc+2 1d34d0+18 1d34e8+4 1d3500+28 1d3528+4 1d3540+2a0 1d37e0+8 1d37e8+8
        1d37f0+8 1d37f8+8 1d3800+8 1d3808+8 1d3810+8 1d3818+8 1d3820+8 1d3828+8 1d3840+30 1d3880+e8
        1d3980+e8 1d3a80+e0 1d3b60+e8 1d3c60+898 1d44f8+8 1d4500+10 1d4510+8 1d4518+8 1d4520+30
        1d4550+8 1d4560+e8 1d4660+8 1d4680+e0 1d4760+e0 1d4840+8 1d4848+8 1d4850+8 1d4858+8 1d4860+8
        1d4880+d6d0
    """,
}
"""By build-id: objects (link-time virtual address + bytes, hexadecimal) of the data.  They are the
symbols of the debug file, joined where they overlap; one for all of .bss, which holds no pointers;
and one for each section that is named like a variable, since glibc's code walks those from start
to end, but for __libc_IO_vtables, with whose bounds it only compares (libioP.h)."""

AFTER: Final = {
    # glibc 2.36-9+deb12u14, libc.so.6
    "93ac61ec5a8eb1396f9fbd350e3169a558528a40": """
        90e60 90e30 91250 < 8dec0 8de40 8dd70 8c650;
        144b30 < 144be0;
        125380 126cf0 127370 126660 1265c0 1267d0 126720 127ac0 127960 < efc70 1186e0 118fb0
        119470 119af0 1199a0 119a50 119d90 11a590 11a4a0 11a350 11a400 134190
    """,
}
"""By build-id: functions that do nothing, or are not called, before one of those behind ``<`` has
run in the process (starts, hexadecimal; rules end with a semicolon):

- what changes a thread's priority for a mutex with PTHREAD_PRIO_PROTECT (nptl/tpp.c), before the
  attribute is set (a mutex that another program has put into shared memory is not foreseen);
- what ends a thread's remote procedure calls (sunrpc/rpc_thread.c, __rpc_thread_destroy), before
  it has variables for them;
- the DNS's name service (nss/nss_module.c has it built in), before hosts or networks are asked
  for: it serves no other databases (resolv/nss_dns_functions.c).  nscd asks by itself, and begins
  with __nss_disable_nscd."""
