"""The logging of commands."""

from __future__ import annotations

import subprocess
import sys

import pytest

_LOGS = """
import logging, warnings
from avsl.logs import start_logging
start_logging()
import lightning, timm
from lightning.pytorch.utilities.rank_zero import rank_zero_info
rank_zero_info("GPU available: False")
logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector").info("`weights_only` was not set")
logging.getLogger("lightning.pytorch.trainer.connectors.signal_connector").info("Received SIGTERM: 15")
for logger in ("timm.models._builder", "lightning.pytorch", "avsl.stages.train"):
    logging.getLogger(logger).warning("Random initialization in %s", logger)
logging.getLogger("timm.models._builder").warning("Unexpected keys (fc.weight) found")
logging.getLogger("avsl.stages.train").info("epoch 1/1")
"""


@pytest.mark.slow
def test_libraries_notices_are_left_out_and_their_warnings_kept() -> None:
    """Although importing Lightning sets its own levels and handlers."""
    done = subprocess.run([sys.executable, "-c", _LOGS], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert not [line for line in lines for notice in ("GPU", "weights_only", "SIGTERM", "Unexpected") if notice in line]
    for logger in ("timm.models._builder", "lightning.pytorch", "avsl.stages.train"):
        assert any(f"Random initialization in {logger}" in line for line in lines)
    assert lines.count("epoch 1/1") == 1
