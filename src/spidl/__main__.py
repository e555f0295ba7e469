"""``python -m spidl``."""

from spidl.cli.main import entry

entry()
