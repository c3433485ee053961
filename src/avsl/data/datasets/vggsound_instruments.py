"""VGGSound-Instruments (Hu et al., CVPR 2022, arXiv 2111.14556): one masked frame each of 36 instruments' clips."""

from __future__ import annotations

from pathlib import Path

from avsl.data.annotation_files import read_table
from avsl.data.index import CutConfig, Index
from avsl.data.listing import Media, add_mixtures
from avsl.data.partition import assign_parts


class VGGSoundInstrumentsConfig(CutConfig):
    """A folder with ``frames/``, ``audio/`` and ``masks/``.

    Attributes:
        test_list: CSV file in the folder, without a header: id, class; the masked rows, which ``test_share`` divides.
        pairs: CSV file of id, class, second id, its class: the rows of ``test_duet``, whose sound is the sum of both
            sounds. Pairs with a clip outside ``test`` are left out. Empty: no pairs.
    """

    test_list: str = "vgginstruments_test.csv"
    pairs: str = "vgginstruments_multi_test.csv"


def read_index(config: VGGSoundInstrumentsConfig) -> Index:
    """List the masked frames and the mixtures.

    Raises:
        DataError: a file is missing or wrong, or a pair names an id that the test list does not.
    """
    root = Path(config.root)
    media = Media.read(root)
    listed = read_table(root / config.test_list, 2, "test list")
    clips = assign_parts((media.masked_entry(root / "masks", name, label=label) for name, label, *_ in listed), config)
    if not config.pairs:
        return Index(clips)
    mixtures, left_out = add_mixtures(clips, root / config.pairs, config.test_list, "test_duet")
    return Index([*clips, *mixtures], left_out=left_out)
