"""``python -m spidl``."""

import sys

from spidl.cli.main import main

sys.exit(main(sys.argv[1:]))
