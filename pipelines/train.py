"""DVC stage `train`: `python pipelines/train.py [KEY=VALUE ...]`."""

import sys

from avsl.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
