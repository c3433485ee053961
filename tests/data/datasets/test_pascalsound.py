"""PascalSound: every picture with its mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from avsl.data.prepared.reader import PreparedData

AddRow = Callable[[Path, str, int], None]
AddMask = Callable[[Path, int], None]


def test_pascalsound_is_every_picture_with_its_mask(
    tmp_path: Path, prepare: Callable[..., PreparedData], add_row: AddRow, add_mask: AddMask
) -> None:
    """Folders are the list; a row without a mask is one of N."""
    root = tmp_path / "pascal"
    for k in range(3):
        add_row(root, f"p{k}", k)
    for k in range(2):
        add_mask(root / "masks" / f"p{k}.png", 30)
    data = prepare("pascalsound", root, max_broken=0.4)
    assert (data.manifest.counts, data.manifest.expected) == ({"test": 2}, {"test": 3})
    assert data.boxes(0).tolist() == [[0, 0, 0.5, 1]]  # type: ignore[union-attr]  # annotated
