"""PascalSound, one of the sets FNAC (arXiv 2303.11302) reports: pictures with matching sounds and pixel masks."""

from __future__ import annotations

from pathlib import Path

from avsl.data.index import CutConfig, Index
from avsl.data.listing import Media
from avsl.data.partition import assign_parts


class PascalSoundConfig(CutConfig):
    """A folder with ``frames/``, ``audio/`` and ``masks/`` whose files have equal names.

    Neither a list nor a layout is published; each picture is a row, of ``test`` by default.
    """


def read_index(config: PascalSoundConfig) -> Index:
    """List a row for every picture.

    Raises:
        DataError: a folder is missing, or two files have one name.
    """
    root = Path(config.root)
    media = Media.read(root)
    rows = [media.masked_entry(root / "masks", name) for name in sorted(media.pictures)]
    return Index(assign_parts(rows, config))
