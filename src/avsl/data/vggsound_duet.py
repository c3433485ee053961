"""VGGSound-Duet (Mo and Tian, CVPR 2023, arXiv 2303.17056): two VGG-SS clips whose sounds are mixed."""

from __future__ import annotations

from pathlib import Path

from avsl.data.errors import DataError
from avsl.data.index import Index, IndexedConfig, Media, mixed_rows, read_annotations, read_table


class VGGSoundDuetConfig(IndexedConfig):
    """VGG-SS's folder with the list of pairs; all rows are ``test_duet``.

    Each frame of a pair hears the sum of both sounds, and its own boxes are the truth, as in published code.

    Attributes:
        annotations: VGG-SS's JSON in the folder.
        pairs: CSV in it without a header: clip, class, second clip, its class.
    """

    annotations: str = "vggss.json"
    pairs: str = "vggsound_duet_test.csv"


def read_index(config: VGGSoundDuetConfig) -> Index:
    """List two rows for each pair.

    Raises:
        DataError: a file is missing or wrong, or a clip of a pair has no boxes.
    """
    root = Path(config.root)
    media = Media.read(root)
    known = read_annotations(root / config.annotations)
    path = root / config.pairs
    entries = []
    for number, (one, _, other, *_) in enumerate(read_table(path, 4, "list of pairs"), start=1):
        for name in (one, other):
            if name not in known:
                raise DataError(f"{path}: row {number}: '{name}' is not annotated in {config.annotations}")
        rows = [media.entry(name, label=known[name][0], boxes=known[name][1]) for name in (one, other)]
        entries += mixed_rows(*rows)
    return Index(entries)
