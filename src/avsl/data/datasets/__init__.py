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

# By name: what lists the rows of a data set on disk (an `IndexedConfig`), or makes a prepared set from nothing, and the
# model of its settings.
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
    """The data sets that read a folder: what lists their rows, and the model of their settings."""
    return {name: (read, model) for name, (read, model) in DATASETS.items() if issubclass(model, IndexedConfig)}


def make_prepared(name: str, settings: StrictConfig, root: Path, workers: int) -> Manifest:
    """Make the prepared set ``root`` of a data set.

    Args:
        name: one of `DATASETS`.
        settings: an instance of its model.
        root: folder of the prepared set; what an interrupted call has left there is kept.
        workers: processes, at least 1.

    Raises:
        DataError: the data set's folder, annotations or lists cannot be used.
    """
    function, _ = DATASETS[name]
    if isinstance(settings, IndexedConfig):
        return prepare_index(name, function, settings, root, workers)
    made: Manifest = function(settings, root, workers)
    return made
