"""The folder to label: its clips, their annotations and their parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avsl.config.models import Config
from avsl.data.annotation_files import Annotation, read_annotations
from avsl.data.datasets.folder import ANNOTATIONS, FolderConfig, read_index
from avsl.data.index import Entry
from avsl.data.listing import Media
from avsl.data.media.audio import read_audio, scale_into_range
from avsl.data.media.video import read_frame
from avsl.data.partition import assign_parts
from avsl.errors import DataError
from avsl.schema import ConfigError
from avsl.storage import is_remote

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ClipFolder:
    """Clips of a folder, as ``data=folder`` reads it.

    Attributes:
        settings: settings of the data set, with the path of the annotation file, which may not exist yet.
        clips: annotated and other clips by name. Their `part` is that of the recording, so it is known before a clip
            is annotated.
    """

    settings: FolderConfig
    clips: Mapping[str, Entry]

    @classmethod
    def open(cls, config: Config) -> ClipFolder:
        """List the folder of a composed configuration.

        Raises:
            ConfigError: the data set is not ``folder``, lies on S3, or its annotation file is no CSV.
            DataError: the folder or the annotation file cannot be used.
        """
        settings = config.data.settings
        if not isinstance(settings, FolderConfig):
            raise ConfigError(
                f"avsl labels works on data=folder data.folder.root=CLIPS, not on data={config.data.name}"
            )
        if is_remote(settings.root):
            raise ConfigError(f"data.folder.root = '{settings.root}': clips are labeled in a local folder")
        name = settings.annotations or ANNOTATIONS
        if not name.lower().endswith(".csv"):
            raise ConfigError(f"data.folder.annotations = '{name}': avsl labels reads and writes a CSV")
        bare = settings.model_copy(update={"annotations": ""})
        settings = settings.model_copy(update={"annotations": name})
        clips = {clip.sample_id: clip for clip in assign_parts(read_index(bare).entries, settings)}
        if (Path(settings.root) / name).is_file():
            # The index of an annotated folder leaves out further clips of held-out recordings.
            clips |= {clip.sample_id: clip for clip in read_index(settings).entries if clip.annotated}
        return cls(settings, clips)

    @property
    def annotations(self) -> Path:
        """The path of the annotation file, which may not exist."""
        return Path(self.settings.root) / self.settings.annotations

    def annotated(self) -> dict[str, Annotation]:
        """Return each clip's annotation as corners, in the file's order and units; empty without a file."""
        if not self.annotations.is_file():
            return {}
        media = Media.read(Path(self.settings.root), class_folders=True)
        read = read_annotations(self.annotations, self.settings.boxes, self.settings.units)
        return {media.find(written, row.label): row for written, row in read.items()}

    def open_clips(self) -> list[Entry]:
        """Return the clips without annotation, sorted by name."""
        return sorted((clip for clip in self.clips.values() if not clip.annotated), key=lambda clip: clip.sample_id)

    def read_frame(self, clip: Entry) -> NDArray[np.uint8]:
        """Read the frame that `prepare` uses of a clip: (H, W, 3) RGB, upright and at full resolution.

        Raises:
            DataError: the file is missing or cannot be used.
        """
        if clip.picture is None:
            raise DataError(f"{self.settings.root}: '{clip.sample_id}' has no frame")
        return read_frame(clip.picture, clip.time_s)

    def read_sound(self, clip: Entry, sample_rate: int, duration_s: float | None = None) -> NDArray[np.float32]:
        """Read the sound around that frame.

        Args:
            clip: one of `clips`.
            sample_rate: Hz.
            duration_s: length of the sound; by default the data set's.

        Returns:
            (T,) samples in [-1, 1].

        Raises:
            DataError: the file is missing or cannot be used, or the sound is silent.
        """
        if clip.sounds[0] is None:
            raise DataError(f"{self.settings.root}: '{clip.sample_id}' has no sound")
        duration = self.settings.duration_s if duration_s is None else duration_s
        window = read_audio(clip.sounds[0], None, duration, sample_rate, self.settings.silence_db)
        return scale_into_range(window)[0]


def one_a_recording(clips: Iterable[Entry], rng: np.random.Generator) -> list[Entry]:
    """Draw a clip of each recording, in random order."""
    by_recording: dict[str, list[Entry]] = {}
    for clip in clips:
        by_recording.setdefault(clip.source_id, []).append(clip)
    chosen = [of_one[int(rng.integers(len(of_one)))] for of_one in by_recording.values()]
    return [chosen[k] for k in rng.permutation(len(chosen))]
