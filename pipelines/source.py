"""DVC stage `source`: `python pipelines/source.py`."""

import sys

from avsl.cli import main

if __name__ == "__main__":
    sys.exit(main(["source", *sys.argv[1:]]))
