"""VGGSound-Duet (Mo and Tian, CVPR 2023, arXiv 2303.17056): two VGG-SS clips whose sounds are mixed."""

from __future__ import annotations

from pathlib import Path

from avsl.data.annotation_files import read_annotations
from avsl.data.index import CutConfig, Index
from avsl.data.listing import Media, add_mixtures
from avsl.data.partition import assign_parts


class VGGSoundDuetConfig(CutConfig):
    """VGG-SS's folder with a list of pairs, which are the rows of ``test``.

    The sound of both frames of a pair is the sum of both sounds, and the truth of a frame is its own boxes, as in
    published code. With a ``test_share`` below 1 the clips of the other videos, each with its own sound, are training
    and validation rows, and pairs that hold one of them are left out.

    Attributes:
        annotations: VGG-SS's JSON file in the folder.
        pairs: CSV file in the folder, without a header: clip, class, second clip, its class.
    """

    annotations: str = "vggss.json"
    pairs: str = "vggsound_duet_test.csv"


def read_index(config: VGGSoundDuetConfig) -> Index:
    """List two rows for each pair of test clips, and the other annotated clips.

    Raises:
        DataError: a file is missing or wrong, or a clip of a pair has no boxes.
    """
    root = Path(config.root)
    media = Media.read(root)
    known = read_annotations(root / config.annotations)
    clips = assign_parts(media.annotated(known), config)
    mixtures, left_out = add_mixtures(clips, root / config.pairs, config.annotations, "test")
    return Index([*mixtures, *(clip for clip in clips if clip.part != "test")], left_out=left_out)
