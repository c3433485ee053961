"""Object-guided localization: an audio-visual map mixed with a map of what looks like an object."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from avsl.functional.localization import minmax


def object_guided(maps: Tensor, objects: Tensor, alpha: float, size: tuple[int, int]) -> Tensor:
    """OGL's mixture (Mo & Morgado, EZ-VSL, ECCV 2022, arXiv 2203.09324, eq. 7), as the published test code does it.

    Both maps are enlarged to the frame (bilinear, corners aligned) and stretched to [0, 1] there; their weighted sum
    is stretched once more. So every map peaks at 1, whatever is heard: none of them can say that nothing sounds.

    Args:
        maps: (B, h, w) audio-visual maps; an increasing linear function of them gives the same.
        objects: (B, h', w') object maps.
        alpha: the audio-visual maps' share, in [0, 1].
        size: (H, W) of the frame, px.

    Returns:
        (B, H, W) in [0, 1].
    """
    sound, sight = (minmax(_enlarge(grid, size)) for grid in (maps, objects))
    return minmax(alpha * sound + (1 - alpha) * sight)


def _enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    # From 0 up, so that a map without contrast stays exactly that: stretching would show the rounding otherwise.
    maps = maps - maps.amin((-2, -1), keepdim=True)
    return F.interpolate(maps.float()[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
