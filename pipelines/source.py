"""DVC stage `source`: `python pipelines/source.py`."""

import sys
from pathlib import Path

from avsl.engine.entry import call
from avsl.engine.source import source

if __name__ == "__main__":
    sys.exit(call(lambda: source(Path())))
