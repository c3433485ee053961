"""DVC stage `register`: `python pipelines/register.py [KEY=VALUE ...]`."""

import sys

from avsl.stages.entry import call
from avsl.stages.register import register

if __name__ == "__main__":
    sys.exit(call(lambda: register(sys.argv[1:])))
