"""Which system calls each function of an ELF file can reach, from the binary alone."""

from spidl.analyse.analyser import analyse
from spidl.analyse.explaining import ALWAYS, ENTRY, Step, explain
from spidl.analyse.keeping import summary_of
from spidl.analyse.summary import Class, Site, Summary, Told

__all__ = [
    "ALWAYS",
    "ENTRY",
    "Class",
    "Site",
    "Step",
    "Summary",
    "Told",
    "analyse",
    "explain",
    "summary_of",
]
