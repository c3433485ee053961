"""DVC stage `train`: `python pipelines/train.py [KEY=VALUE ...]`."""

import sys

from avsl.stages.entry import call
from avsl.stages.train import train

if __name__ == "__main__":
    sys.exit(call(lambda: train(sys.argv[1:])))
