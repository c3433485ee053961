"""DVC stage `split`: `python pipelines/split.py [KEY=VALUE ...]`."""

import sys

from avsl.engine.entry import call
from avsl.engine.prepare import split

if __name__ == "__main__":
    sys.exit(call(lambda: split(sys.argv[1:])))
