"""DVC stage `report`: `python pipelines/report.py [KEY=VALUE ...]`."""

import sys

from avsl.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
