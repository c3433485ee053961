"""VGGSound-Instruments (Hu et al., CVPR 2022, arXiv 2111.14556): one masked frame each of 36 instruments' clips."""

from __future__ import annotations

from pathlib import Path

from avsl.data.annotation_files import read_table
from avsl.data.index import CutConfig, Index
from avsl.data.listing import Media, mixed_rows
from avsl.data.partition import assign_parts
from avsl.errors import DataError


class VGGSoundInstrumentsConfig(CutConfig):
    """A folder with ``frames/``, ``audio/`` and ``masks/``.

    Attributes:
        test_list: CSV in the folder without a header: id, class; the masked rows, which are cut by ``test_share``.
        pairs: CSV of id, class, second id, its class: the rows of ``test_duet``, where each frame hears the sum of both
            sounds, but for those that hold a clip that is not in ``test``; empty: none.
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
    rows = assign_parts((media.masked_entry(root / "masks", name, label=label) for name, label, *_ in listed), config)
    entries = {entry.sample_id: entry for entry in rows}
    pairs = []
    if config.pairs:
        path = root / config.pairs
        for number, (one, _, other, *_) in enumerate(read_table(path, 4, "list of pairs"), start=1):
            for name in (one, other):
                if name not in entries:
                    raise DataError(f"{path}: row {number}: '{name}' is not in {config.test_list}")
            pairs.append((entries[one], entries[other]))
    mixed, left_out = mixed_rows(pairs, "test_duet")
    return Index([*rows, *mixed], left_out=left_out)
