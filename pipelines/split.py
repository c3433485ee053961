"""DVC stage `split`: `python pipelines/split.py [KEY=VALUE ...]`."""

import sys

from avsl.cli import main

if __name__ == "__main__":
    sys.exit(main(["split", *sys.argv[1:]]))
