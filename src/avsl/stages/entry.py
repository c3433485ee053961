"""How a step becomes a command: logging, and mistakes in the input said in one sentence."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from avsl.errors import AvslError

_ESCAPES = {code: repr(chr(code))[1:-1] for code in (*range(32), 127)}


def call(step: Callable[[], None]) -> int:
    """Run ``step``; returns the exit code.

    Mistakes that name a file, key or value, and what the system refuses (a full disk, a file that may not be read), are
    one sentence on stderr and code 2; anything else is a defect and keeps its traceback.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # Lightning says by itself, twice, what hardware there is.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        step()
    except ConnectionError:
        raise
    except (AvslError, OSError) as error:
        # A file's name may hold any character but "/".
        print(f"avsl: {str(error).translate(_ESCAPES)}", file=sys.stderr)
        return 2
    return 0
