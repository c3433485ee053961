"""DVC stage `prepare`: `python pipelines/prepare.py [KEY=VALUE ...]`."""

import sys

from avsl.stages.entry import call
from avsl.stages.prepare import prepare

if __name__ == "__main__":
    sys.exit(call(lambda: prepare(sys.argv[1:])))
