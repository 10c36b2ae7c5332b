"""`python -m reactvl` is `reactvl`, and what torchrun starts."""

import os
import sys

from reactvl.cli import main

if __name__ == "__main__":
    code = main()
    if (
        "TORCHELASTIC_RUN_ID" in os.environ
    ):  # gloo's threads sometimes abort at an ordinary exit, after all work is done
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
