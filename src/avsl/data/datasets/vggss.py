"""VGG-SS (Chen et al., CVPR 2021, arXiv 2104.02691) and folders laid out like it: real frames, sounds and boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from avsl.data.annotation_files import read_annotations, read_list
from avsl.data.index import Entry, Index, ListedConfig
from avsl.data.listing import Media, add_unannotated
from avsl.data.partition import assign_parts
from avsl.errors import DataError


class VGGSSConfig(ListedConfig):
    """A folder in VGG-SS's layout: an annotation file and ``frames/`` with ``audio/``, or clips ``<id>.mp4``.

    All published boxes belong to the 5,158 test clips, so labeled, validation and test rows are chosen among these.

    Attributes:
        annotations: JSON file in the folder, a list of ``file``, ``class`` and ``bbox`` (fractions of the frame).
        test_list: file with the test ids, one a line (first column of a CSV); empty: ``test_share`` of the recordings.
        test_share: share of the recordings in the test part; used only without ``test_list``.
        heard_list: for the open set, file with the ids that are divided into train, validation and ``test``
            (``vggss_heard_test.csv``); empty: all ids that the unheard list does not name.
        unheard_list: for the open set, file with the ids of ``test_unheard`` (``vggss_unheard_test.csv``); empty: none.
        silent_list: file with the silent pairs; published is ``vggss_test_plus_silent.csv``.
        train_list: file with the ids of the unlabeled rows; published are ``vggss_10k.txt`` and ``vggss_144k.txt``.
    """

    annotations: str = "vggss.json"
    test_list: str = ""
    test_share: float = Field(0.2, ge=0, le=1)
    heard_list: str = ""
    unheard_list: str = ""


def read_index(config: VGGSSConfig) -> Index:
    """List the annotated clips, the silent pairs and the unlabeled clips.

    Raises:
        DataError: a file is missing or wrong, or the training list leaks.
    """
    root = Path(config.root)
    media = Media.read(root)
    known = read_annotations(root / config.annotations)
    rows = media.annotated(known)
    return add_unannotated(_cut(config, rows, media), config, media, known, "vggss")


def _cut(config: VGGSSConfig, rows: list[Entry], media: Media) -> list[Entry]:
    """Assign the annotated rows to parts."""
    by_id = {row.sample_id: row for row in rows}

    def named(file: str, what: str) -> list[Entry]:
        path = Path(config.root) / file
        ids = read_list(path, what)
        if not by_id.keys() & set(ids):
            raise DataError(f"{path}: none of its {len(ids)} ids is annotated")
        unannotated = f"listed in {file} but not annotated in {config.annotations}"
        return [by_id.get(name) or media.entry(name, broken=unannotated) for name in ids]

    listed = named(config.unheard_list, "list of unheard clips") if config.unheard_list else []
    unheard = [replace(row, part="test_unheard") for row in listed]
    if config.heard_list:
        heard = named(config.heard_list, "list of heard clips")
    else:
        apart = {row.sample_id for row in unheard}
        heard = [row for row in rows if row.sample_id not in apart]
    test_sources = None
    if config.test_list:
        tests = named(config.test_list, "test list")
        test_sources = {row.source_id for row in tests}
        heard += [row for row in tests if row.broken]
    return assign_parts(heard, config, test_sources) + unheard
