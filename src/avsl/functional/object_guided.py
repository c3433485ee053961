"""Object-guided localization (OGL): a mixture of an audio-visual map and a map of object-like regions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from avsl.functional.localization import minmax


def object_guided(maps: Tensor, objects: Tensor, alpha: float, size: tuple[int, int]) -> Tensor:
    """OGL's mixture (Mo & Morgado, EZ-VSL, ECCV 2022, arXiv 2203.09324, eq. 7), as in the published test code.

    Both maps are enlarged to the frame (bilinear, corners aligned) and stretched to [0, 1]; their weighted sum is
    stretched again. Every result therefore peaks at 1, for silent samples too.

    Args:
        maps: (B, h, w) audio-visual maps; the result does not change under an increasing linear function of them.
        objects: (B, h', w') object maps.
        alpha: the audio-visual maps' share, in [0, 1].
        size: (H, W) of the frame, px.

    Returns:
        (B, H, W) in [0, 1].
    """
    sound, sight = (minmax(_enlarge(grid, size)) for grid in (maps, objects))
    return minmax(alpha * sound + (1 - alpha) * sight)


def _enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    # Subtracting the minimum keeps a constant map exactly constant; otherwise minmax would stretch rounding errors.
    maps = maps - maps.amin((-2, -1), keepdim=True)
    return F.interpolate(maps.float()[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
