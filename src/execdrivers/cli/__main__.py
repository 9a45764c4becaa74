"""``python -m execdrivers.cli``."""

import sys

from execdrivers.cli import main

if __name__ == "__main__":
    sys.exit(main())
