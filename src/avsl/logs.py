"""Logging of commands: plain messages on stderr."""

from __future__ import annotations

import logging

# Lightning's loggers of hardware, tips and defaults. Importing Lightning resets the levels of the loggers above them.
_LIGHTNING = (
    "lightning.fabric.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
    "lightning.pytorch.trainer.connectors.signal_connector",
    "lightning.pytorch.utilities.rank_zero",
)


def start_logging() -> None:
    """Log from INFO on, without Lightning's notices and timm's list of the weights that features do not need."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in _LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("timm.models._builder").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Unexpected keys")
