"""Pictures and masks whose content is known because the test wrote them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from avsl.data.media.image import read_mask, read_picture, resize_frame
from avsl.errors import DataError

# How a camera stores what it shows upright, by the EXIF orientation it writes with it.
_STORED = {
    1: lambda shown: shown,
    2: np.fliplr,
    3: lambda shown: np.rot90(shown, 2),
    4: np.flipud,
    5: lambda shown: shown.swapaxes(0, 1),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: np.rot90(shown.swapaxes(0, 1), 2),
    8: lambda shown: np.rot90(shown, 3),
}
_RED, _GREEN = (230, 40, 40), (40, 230, 40)


def _scene() -> NDArray[np.uint8]:
    """An upright scene without any symmetry."""
    scene = np.full((96, 64, 3), 30, np.uint8)
    scene[:32, :32] = _RED
    scene[64:, :16] = _GREEN
    return scene


def _save(path: Path, pixels: NDArray[np.uint8], orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif, quality=95)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_pictures_and_masks_are_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    """Every EXIF orientation of every format comes out as a viewer shows it, a mask as well as a frame."""
    name = ".jpg" if suffix == ".webp" else suffix  # downloads have WebP under such names
    stored = _STORED[orientation](_scene())
    path = _save(tmp_path / f"p{suffix}", stored, orientation).rename(tmp_path / f"upright{name}")
    assert np.abs(read_picture(path).astype(int) - _scene()).mean() < 4
    black = np.where(_scene().max(axis=2, keepdims=True) > 100, 255, 0).astype(np.uint8)
    mask = _save(tmp_path / "mask.png", _STORED[orientation](np.repeat(black, 3, axis=2)), orientation)
    np.testing.assert_array_equal(read_mask(mask, 8), black[6::12, 4::8, 0] > 0)


def test_a_damaged_orientation_turns_nothing(tmp_path: Path) -> None:
    """A note that is no EXIF is no reason to refuse a picture."""
    path = tmp_path / "p.jpg"
    Image.fromarray(_scene()).save(path, quality=95, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.abs(read_picture(path).astype(int) - _scene()).mean() < 4
    _save(path, _scene(), 77)
    assert np.abs(read_picture(path).astype(int) - _scene()).mean() < 4


def test_gray_of_16_bits_keeps_its_shades(tmp_path: Path) -> None:
    """The full range of 16 bits is the full range of 8, not white."""
    path = tmp_path / "deep.png"
    Image.fromarray(np.repeat(np.linspace(0, 65535, 256).astype(np.uint16)[None], 8, axis=0)).save(path)
    np.testing.assert_allclose(read_picture(path)[0], np.repeat(np.arange(256)[:, None], 3, axis=1), atol=1)
    ones = np.zeros((8, 8), np.uint16)
    ones[:, 4:] = 1  # nearly black, and in a mask not zero
    Image.fromarray(ones).save(path)
    np.testing.assert_array_equal(read_mask(path, 8), ones > 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_shows_no_color(tmp_path: Path, mode: str) -> None:
    """The colors under a transparent part are not seen."""
    path = tmp_path / "cutout.png"
    alpha = np.zeros((96, 64), np.uint8)
    alpha[:32, :32] = 255
    picture = Image.fromarray(np.dstack([_scene(), alpha]), "RGBA")
    if mode == "P":
        indexed = np.where(alpha > 0, 1, 0).astype(np.uint8)
        picture = Image.fromarray(indexed, "P")
        picture.putpalette([*_GREEN, *_RED])
        picture.save(path, transparency=0)
    else:
        picture.convert(mode).save(path)
    shown = read_picture(path)
    assert (shown[40:] == 255).all()
    assert (shown[:32, :32] < 255).any(axis=2).all()


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("under", [(0, 0, 0), (255, 255, 255)])
def test_a_mask_in_the_alpha_channel_is_found(
    tmp_path: Path, color: tuple[int, int, int], under: tuple[int, int, int]
) -> None:
    """What is opaque is the mask, whatever its color and the colors of what is not."""
    inside = np.zeros((32, 32), bool)
    inside[8:16, 8:24] = True
    pixels = np.where(inside[..., None], color, under).astype(np.uint8)
    path = tmp_path / "mask.png"
    Image.fromarray(np.dstack([pixels, inside.astype(np.uint8) * 255]), "RGBA").save(path)
    np.testing.assert_array_equal(read_mask(path, 32), inside)


def test_masks_are_what_is_not_black_of_what_is_opaque(tmp_path: Path) -> None:
    """A colored mask in an opaque picture, in a palette and in an array."""
    inside = np.zeros((16, 16), np.uint8)
    inside[4:8] = 1
    for name, picture in {
        "opaque.png": Image.fromarray(np.dstack([inside * 90] * 3 + [inside * 0 + 255]), "RGBA"),
        "gray.png": Image.fromarray(inside),
    }.items():
        picture.save(tmp_path / name)
        np.testing.assert_array_equal(read_mask(tmp_path / name, 16), inside > 0)
    np.save(tmp_path / "mask.npy", inside.astype(np.float32))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.npy", 16), inside > 0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_arrays_that_are_no_masks_are_refused(tmp_path: Path, value: float) -> None:
    """NaN is no pixel, and text and cubes are no masks."""
    path = tmp_path / "mask.npy"
    for array, word in (
        (np.array([[1.0, value]]), "NaN"),
        (np.array([["a", "b"]]), "numbers"),
        (np.zeros((2, 2, 2)), "shape"),
    ):
        np.save(path, array)
        with pytest.raises(DataError, match=rf"mask\.npy: .*{word}"):
            read_mask(path, 8)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_half_a_picture_is_refused(tmp_path: Path, suffix: str) -> None:
    """The error names the file."""
    path = _save(tmp_path / f"p{suffix}", _scene())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"p\{suffix}"):
        read_picture(path)


def test_resizing_antialiases_and_squares() -> None:
    """Fine stripes become their mean; a frame of the right size is unchanged."""
    stripes = np.zeros((64, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize_frame(stripes, 16)
    assert small.shape == (16, 16, 3)
    assert np.abs(small.astype(int) - 127).max() <= 5
    np.testing.assert_array_equal(resize_frame(small, 16), small)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path: Path, suffix: str) -> None:
    """A small file that would take gigabytes; the same of an array that only claims to be large."""
    path = tmp_path / f"bomb{suffix}"
    Image.new("1", (9000, 9000)).save(path, "PNG")
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match=rf"bomb\{suffix}: .*9000"):
        read_picture(path)
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    claim = tmp_path / "claim.npy"
    claim.write_bytes(header.ljust(127) + b"\n")
    with pytest.raises(DataError, match=r"claim\.npy"):
        read_mask(claim, 8)
