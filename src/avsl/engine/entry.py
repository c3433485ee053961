"""How a step becomes a command: logging, and mistakes in the input said in one sentence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable


def call(step: Callable[[], None]) -> int:
    """Run ``step``; returns the exit code.

    Mistakes that name a file, key or value are one sentence on stderr and code 2; anything else is a defect and
    keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Lightning says by itself, twice, what hardware there is.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        step()
    except ValueError as error:
        if not type(error).__module__.startswith("avsl."):
            raise
        print(f"avsl: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"avsl: {error}", file=sys.stderr)
        return 2
    return 0
