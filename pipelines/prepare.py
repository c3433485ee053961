"""DVC stage `prepare`: `python pipelines/prepare.py [KEY=VALUE ...]`."""

import sys

from avsl.cli import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
