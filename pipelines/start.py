"""DVC stage `start`: `python pipelines/start.py [KEY=VALUE ...]`."""

import sys

from avsl.cli import main

if __name__ == "__main__":
    sys.exit(main(["start", *sys.argv[1:]]))
