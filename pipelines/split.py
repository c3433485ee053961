"""DVC stage `split`: `python pipelines/split.py [KEY=VALUE ...]`."""

import sys

from avsl.stages.entry import call
from avsl.stages.prepare import split

if __name__ == "__main__":
    sys.exit(call(lambda: split(sys.argv[1:])))
