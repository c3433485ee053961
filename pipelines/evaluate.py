"""DVC stage `evaluate`: `python pipelines/evaluate.py [KEY=VALUE ...]`."""

import sys

from avsl.stages.entry import call
from avsl.stages.evaluate import evaluate

if __name__ == "__main__":
    sys.exit(call(lambda: evaluate(sys.argv[1:])))
