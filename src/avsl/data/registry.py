"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from avsl.data import synthetic, vggss
from avsl.data.shards import Manifest
from avsl.schema import StrictConfig

# Makes the prepared set (settings, folder, worker processes) and the model of its settings, by the data set's name.
DATASETS: dict[str, tuple[Callable[[Any, Path, int], Manifest], type[StrictConfig]]] = {
    "synthetic": (synthetic.generate, synthetic.SyntheticConfig),
    "vggss": (vggss.generate, vggss.VGGSSConfig),
}
