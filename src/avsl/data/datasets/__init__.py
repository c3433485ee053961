"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from avsl.data.datasets import (
    avsbench,
    flickr,
    folder,
    is3,
    music,
    pascalsound,
    synthetic,
    vggsound,
    vggsound_duet,
    vggsound_instruments,
    vggss,
)
from avsl.data.index import Index, IndexedConfig
from avsl.data.prepared.format import Manifest
from avsl.data.prepared.preparation import prepare_index
from avsl.schema import StrictConfig

# For each name a function and the model of its settings: for a data set on disk (an `IndexedConfig`) the function that
# lists its rows, for a generated one the function that makes the prepared set.
DATASETS: dict[str, tuple[Callable[..., Any], type[StrictConfig]]] = {
    "synthetic": (synthetic.generate, synthetic.SyntheticConfig),
    "avsbench": (avsbench.read_index, avsbench.AVSBenchConfig),
    "flickr": (flickr.read_index, flickr.FlickrConfig),
    "folder": (folder.read_index, folder.FolderConfig),
    "is3": (is3.read_index, is3.IS3Config),
    "music": (music.read_index, music.MUSICConfig),
    "pascalsound": (pascalsound.read_index, pascalsound.PascalSoundConfig),
    "vggsound": (vggsound.read_index, vggsound.VGGSoundConfig),
    "vggsound_duet": (vggsound_duet.read_index, vggsound_duet.VGGSoundDuetConfig),
    "vggsound_instruments": (vggsound_instruments.read_index, vggsound_instruments.VGGSoundInstrumentsConfig),
    "vggss": (vggss.read_index, vggss.VGGSSConfig),
}


def on_disk() -> dict[str, tuple[Callable[[Any], Index], type[IndexedConfig]]]:
    """Return the entries of `DATASETS` that read a folder."""
    return {name: (read, model) for name, (read, model) in DATASETS.items() if issubclass(model, IndexedConfig)}


def make_prepared(name: str, settings: StrictConfig, root: Path, workers: int) -> Manifest:
    """Make the prepared set ``root`` of a data set.

    Args:
        name: key of `DATASETS`.
        settings: instance of the data set's settings model.
        root: folder of the prepared set; shards of an interrupted call are kept.
        workers: number of processes, at least 1.

    Raises:
        DataError: the folder, the annotations or a list of the data set cannot be used.
    """
    function, _ = DATASETS[name]
    if isinstance(settings, IndexedConfig):
        return prepare_index(name, function, settings, root, workers)
    made: Manifest = function(settings, root, workers)
    return made
