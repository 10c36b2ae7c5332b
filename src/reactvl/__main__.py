"""`python -m reactvl` is `reactvl`."""

import sys

from reactvl.cli import main

if __name__ == "__main__":
    sys.exit(main())
