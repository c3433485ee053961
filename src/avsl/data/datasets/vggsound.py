"""VGGSound (Chen et al., ICASSP 2020, arXiv 2004.14368): unlabeled training clips beside the boxes of VGG-SS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from avsl.data.annotation_files import read_annotations, read_table
from avsl.data.index import CutConfig, Index, LazyEntries, LeakRule
from avsl.data.listing import Media
from avsl.data.partition import add_training_list, assign_parts
from avsl.errors import DataError


class VGGSoundConfig(CutConfig):
    """Clips ``<YouTube id>_<start, six digits>.mp4`` (or ``frames/`` and ``audio/``) with the official list.

    Attributes:
        metadata: CSV file in the folder, without a header: YouTube id, start in seconds, class, ``train`` or ``test``.
            The ``train`` clips are unlabeled rows, which keep their class.
        annotations: VGG-SS's JSON file in the folder; empty: all rows are unlabeled.
        test_share: share of the annotated videos in the test part.
        leak: what to do with training clips that are rows or share videos of the held-out parts: ``stop`` is an error,
            ``drop`` leaves them out.
    """

    metadata: str = "vggsound.csv"
    annotations: str = "vggss.json"
    test_share: float = Field(0.2, ge=0, le=1)
    leak: LeakRule = "stop"


def read_index(config: VGGSoundConfig) -> Index:
    """List the annotated clips and the training clips.

    Raises:
        DataError: a file is missing or wrong, or the training clips leak.
    """
    root = Path(config.root)
    media = Media.read(root)
    known = read_annotations(root / config.annotations) if config.annotations else {}
    rows = media.annotated(known)
    path = root / config.metadata
    pool = LazyEntries(lambda: (media.entry(name, part="train", label=label) for name, label in _training_clips(path)))
    return add_training_list(assign_parts(rows, config), pool, config.leak, path, "data.vggsound.leak")


def _training_clips(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the class of each training clip."""
    for number, (video, start, label, split, *_) in enumerate(read_table(path, 4, "list of clips"), start=1):
        if not (start.isascii() and start.isdigit()) or split not in ("train", "test"):
            raise DataError(f"{path}: row {number} is not 'id,seconds,class,train|test': '{video},{start},…,{split}'")
        if split == "train":
            yield f"{video}_{int(start):06d}", label
