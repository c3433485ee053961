"""DVC stage `register`: `python pipelines/register.py [KEY=VALUE ...]`."""

import sys

from avsl.cli import main

if __name__ == "__main__":
    sys.exit(main(["register", *sys.argv[1:]]))
