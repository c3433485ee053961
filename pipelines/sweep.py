"""Search for the best settings: `python pipelines/sweep.py [tune=full] [KEY=VALUE ...]`."""

import sys

from avsl.stages.entry import call
from avsl.tuning.sweep import sweep

if __name__ == "__main__":
    sys.exit(call(lambda: sweep(sys.argv[1:])))
