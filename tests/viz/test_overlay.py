"""Pictures show what they are given: colors grow with confidence, boxes lie where they should, files are whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fixtures.messages import facts

from avsl.files import whole_file
from avsl.viz import overlay as pictures

GRAY = np.full((60, 80, 3), 120, dtype=np.uint8)
BOX = np.array([[0.25, 0.25, 0.75, 0.75]])


def _row(**changes: object) -> pictures.GalleryRow:
    values: dict[str, object] = {"frame": GRAY, "truth": BOX, "maps": {"a": np.zeros((4, 4))}}
    return pictures.GalleryRow(**{**values, **changes})  # type: ignore[arg-type] # keywords by name


def test_a_silent_map_leaves_the_frame_and_a_sure_one_colors_its_place_alone() -> None:
    """Transparent at 0, colored at 1."""
    np.testing.assert_array_equal(pictures.overlay(GRAY, np.zeros((4, 4))), GRAY)
    confidence = np.zeros((6, 8))
    confidence[:, 4:] = 1
    painted = pictures.overlay(GRAY, confidence).astype(int)
    np.testing.assert_array_equal(painted[:, :30], GRAY[:, :30])
    change = np.abs(painted - 120).sum(axis=2)
    assert change[:, 50:].min() > 150


def test_colors_are_absolute() -> None:
    """A flat map looks different at each level: nothing is stretched per image."""
    changes = [
        np.abs(pictures.overlay(GRAY, np.full((4, 4), level)).astype(int) - 120).sum() for level in (0.1, 0.5, 1.0)
    ]
    assert changes[0] < changes[1] < changes[2]


def test_boxes_are_outlined_at_their_place_only() -> None:
    """The outline lies inside the box; predictions and truth differ in color."""
    drawn = pictures.overlay(GRAY, np.zeros((4, 4)), boxes=BOX)
    assert tuple(drawn[30, 20]) == pictures.BOX_COLOR
    assert tuple(drawn[15, 40]) == pictures.BOX_COLOR
    assert tuple(drawn[44, 59]) == pictures.BOX_COLOR
    ys, xs = np.nonzero((drawn != GRAY).any(axis=2))
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (15, 44, 20, 59)
    both = pictures.overlay(GRAY, np.zeros((4, 4)), boxes=BOX / 2, truth=BOX)
    assert tuple(both[44, 59]) == pictures.TRUTH_COLOR


@pytest.mark.parametrize("confidence", [np.full((4, 4), 1.2), np.full((4, 4), np.nan), np.zeros(4)])
def test_overlay_refuses_what_is_not_a_confidence(
    confidence: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> None:
    """Values above 1, NaN, and a vector."""
    with pytest.raises(ValueError, match=facts("confidence map")):
        pictures.overlay(GRAY, confidence)


@pytest.mark.parametrize("size", [(48, 64), (1080, 1920)])
def test_a_caption_is_legible_on_any_ground_and_leaves_the_rest(size: tuple[int, int]) -> None:
    """Light on dark in the lower left corner, larger in a larger frame, never wider than it."""
    for ground in (0, 255):
        frame = np.full((*size, 3), ground, dtype=np.uint8)
        written = pictures.captioned(frame, "no visible source")
        ys, xs = np.nonzero((written != frame).any(axis=2))
        assert np.ptp(written[ys.min() : ys.max(), xs.min() : xs.max()].astype(int)) > 150
        assert ys.min() > size[0] / 2
        assert ys.max() - ys.min() > size[0] / 40
        assert xs.max() < size[1]
    with pytest.raises(ValueError, match=facts("frame")):
        pictures.captioned(np.zeros((4, 4), np.uint8), "x")


def test_gallery_has_a_column_for_everything_given() -> None:
    """A sound adds a column, a sample a row."""
    silent = pictures.gallery([_row(), _row(truth=np.zeros((0, 4)))], cell=60)
    wave = np.sin(np.linspace(0, 60, 4000))
    sound = pictures.gallery([_row(waveform=wave, log_mel=np.eye(8)), _row()], cell=60)
    assert sound.height == silent.height
    assert sound.width - silent.width == (silent.width - 6) // 3
    one = pictures.gallery([_row()], cell=60)
    assert one.height < silent.height


def test_gallery_draws_low_bands_at_the_bottom() -> None:
    """The first bands are the brightest here, and lie below."""
    log_mel = np.zeros((10, 10))
    log_mel[:5] = 1
    sheet = np.asarray(pictures.gallery([_row(log_mel=log_mel)], cell=60)).astype(int)
    last = sheet[-66:-6, -80:-12].sum(axis=2)
    assert last[-20:].mean() > last[:20].mean() + 200


def test_gallery_refuses_rows_that_do_not_align() -> None:
    """Other maps than the first row, or no row."""
    with pytest.raises(ValueError, match="same maps"):
        pictures.gallery([_row(), _row(maps={"b": np.zeros((4, 4))})])
    with pytest.raises(ValueError, match=facts("row")):
        pictures.gallery([])


def test_contact_sheet_lays_pictures_out_in_rows() -> None:
    """Each picture is found in its cell."""
    colors = [np.full((40, 60, 3), 40 * k, dtype=np.uint8) for k in range(5)]
    sheet = np.asarray(pictures.contact_sheet(colors, [f"picture {k} " * 9 for k in range(5)], columns=2, width=60))
    row_height = (sheet.shape[0] - 6) // 3
    for k in range(5):
        y, x = 6 + (k // 2) * row_height + 20, 6 + (k % 2) * 66 + 30
        assert tuple(sheet[y, x]) == (40 * k,) * 3
    with pytest.raises(ValueError, match=facts("caption")):
        pictures.contact_sheet(colors, ["one"], columns=2)


def test_a_contact_sheet_names_its_model_above_a_legend_of_the_colors() -> None:
    """All of the heading is there, on more lines where the sheet is narrow; the legend marks the threshold."""
    heading = "video.mp4 · models:/avsl-synthetic-ratio-0.03@champion · trained on synthetic"
    bare = pictures.contact_sheet([GRAY] * 6, ["a"] * 6, 6)
    wide = pictures.contact_sheet([GRAY] * 6, ["a"] * 6, 6, heading=heading)
    narrow = pictures.contact_sheet([GRAY], ["a"], 6, heading=heading)
    assert wide.height - bare.height < narrow.height - pictures.contact_sheet([GRAY], ["a"], 6).height
    np.testing.assert_array_equal(np.asarray(wide)[-100:], np.asarray(bare)[-100:])
    marks = []
    for threshold in (0.1, 0.9):
        sheet = np.asarray(pictures.contact_sheet([GRAY] * 6, ["a"] * 6, 6, heading=heading, threshold=threshold))
        assert (sheet[: sheet.shape[0] - 200] == (252, 255, 164)).all(axis=2).any()  # inferno's last color
        _, columns = np.nonzero((sheet == pictures.BOX_COLOR).all(axis=2))
        marks.append(columns.mean())
    assert marks[1] - marks[0] == pytest.approx(0.8 * 119, abs=2)


def test_png_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """A failed write leaves the old file and no other."""
    path = tmp_path / "new" / "picture.png"
    pictures.save_png(GRAY, path)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), GRAY)

    def fail() -> None:
        with whole_file(path) as part:
            part.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert [file.name for file in path.parent.iterdir()] == ["picture.png"]
    with Image.open(path) as image:
        assert image.size == (80, 60)
