"""DVC stage `report`: `python pipelines/report.py [KEY=VALUE ...]`."""

import sys

from avsl.engine.entry import call
from avsl.report.tables import report

if __name__ == "__main__":
    sys.exit(call(lambda: report(sys.argv[1:])))
