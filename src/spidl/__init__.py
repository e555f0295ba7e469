"""Spidl: a dynamic linker you can program."""

__version__ = "0.1.0"
