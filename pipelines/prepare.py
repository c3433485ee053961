"""DVC stage `prepare`: `python pipelines/prepare.py [KEY=VALUE ...]`."""

import sys

from avsl.engine.entry import call
from avsl.engine.prepare import prepare

if __name__ == "__main__":
    sys.exit(call(lambda: prepare(sys.argv[1:])))
