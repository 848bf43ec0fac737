"""`python -m archcalc` is `archcalc`, and ends as Python does: under a profiler, or where coverage is measured."""

import sys

from archcalc.cli import main
from archcalc.cli.process import spare

if __name__ == "__main__":
    spare()
    sys.exit(main())
