"""DVC stage `report`: `python pipelines/report.py [KEY=VALUE ...]`."""

import sys

from avsl.report.tables import report
from avsl.stages.entry import call

if __name__ == "__main__":
    sys.exit(call(lambda: report(sys.argv[1:])))
