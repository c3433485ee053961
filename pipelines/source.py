"""DVC stage `source`: `python pipelines/source.py`."""

import sys
from pathlib import Path

from avsl.stages.entry import call
from avsl.stages.source import source

if __name__ == "__main__":
    sys.exit(call(lambda: source(Path())))
