"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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

# Lists the rows of a data set on disk (settings), and the model of its settings, by the data set's name.
ON_DISK: dict[str, tuple[Callable[[Any], Index], type[IndexedConfig]]] = {
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

# Makes the prepared set (settings, folder, worker processes) and the model of its settings, by the data set's name.
DATASETS: dict[str, tuple[Callable[[Any, Path, int], Manifest], type[StrictConfig]]] = {
    "synthetic": (synthetic.generate, synthetic.SyntheticConfig),
    **{name: (partial(prepare_index, name, read), model) for name, (read, model) in ON_DISK.items()},
}
