"""ELF files for tests: the builder, under the name tests import it by."""

from spidl.elf.build import Define, Relocate, Undefined, build_dso

__all__ = ["Define", "Relocate", "Undefined", "build_dso"]
