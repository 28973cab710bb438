"""``python -m shmsync`` is the command ``shmsync``."""

import sys

from shmsync.cli import main

if __name__ == "__main__":
    sys.exit(main())
