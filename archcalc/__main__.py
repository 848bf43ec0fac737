"""`python -m archcalc` is `archcalc`."""

import sys

from archcalc.cli import main

if __name__ == "__main__":
    sys.exit(main())
