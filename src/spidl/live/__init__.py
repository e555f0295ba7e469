"""The live target: libraries are linked into the running Python process, under control.

    from spidl import live

    with live.load("libz.so.1") as z:
        crc32 = z.function("crc32", c_ulong, [c_ulong, c_char_p, c_uint])

It is the pipeline of the exec target with other last steps.  From the outside in: `library` (what a
user has), `loading` (the steps of one load), `kept` and `replay` (a load as a value, and performing
it again; both loads end in `commit`), `members` (one object and its states), `shell`,
`segments` and `tls` (how an object gets into the process), `residents` and `host` (what is there
before), `module` (what the link sees of all that), `process` (the C library's and kernel's side).
"""

from spidl.live.extension import import_extension
from spidl.live.host import HOST_LIST
from spidl.live.library import Library, Loaded, libraries, load
from spidl.live.members import Binding
from spidl.live.namespace import Namespace

__all__ = [
    "HOST_LIST",
    "Binding",
    "Library",
    "Loaded",
    "Namespace",
    "import_extension",
    "libraries",
    "load",
]
