"""DVC stage `evaluate`: `python pipelines/evaluate.py [KEY=VALUE ...]`."""

import sys

from avsl.engine.entry import call
from avsl.engine.evaluate import evaluate

if __name__ == "__main__":
    sys.exit(call(lambda: evaluate(sys.argv[1:])))
