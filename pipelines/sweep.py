"""Search for the best settings: `python pipelines/sweep.py [tune=full] [KEY=VALUE ...]`."""

import sys

from avsl.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
