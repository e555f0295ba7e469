"""A fixed seccomp filter (struct sock_filter): socket(2) fails with EPERM from the start on."""
import struct

from spidl.api import START, Dso, Filter, Module, Pipeline

LOAD, IF_EQUAL, IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
X86_64, X32, SOCKET, ALLOW, EPERM = 0xC000003E, 0x40000000, 41, 0x7FFF0000, 0x50001
# (operation, lines to skip if so, if not, value); seccomp_data has the call at 0, the ABI at 4.
RULES = [(LOAD, 0, 0, 4), (IF_EQUAL, 0, 3, X86_64), (LOAD, 0, 0, 0), (IF_AT_LEAST, 1, 0, X32),
         (IF_EQUAL, 0, 1, SOCKET), (RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]


class NoSockets(Module):
    policy = True  # an image that cannot have the filter must not start

    def register(self, dso: Dso, pipeline: Pipeline) -> None:
        if dso.is_root:
            program = b"".join(struct.pack("=HBBI", *rule) for rule in RULES)
            pipeline.weak(START, lambda dso, link: [Filter(program)])
