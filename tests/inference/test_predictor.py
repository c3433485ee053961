"""The predictor with a network whose answer is known in advance."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.fixtures.messages import facts
from torch import Tensor, nn

from avsl.inference.predictor import InputError, Predictor, find_boxes
from avsl.models import ExportedModel, LocalizerConfig, LocalizerEnsemble


class _Bright(nn.Module):
    """Says that bright cells sound, as loud as the sound's mean, and remembers what it was given."""

    def predict(self, frames: Tensor, waveforms: Tensor) -> Tensor:
        self.frames, self.waveforms = frames, waveforms
        grid = nn.functional.avg_pool2d(frames.permute(0, 3, 1, 2).float(), 4)[:, 0] / 255
        return grid * waveforms.mean(1).view(-1, 1, 1)


@pytest.fixture
def model() -> _Bright:
    """A network whose map can be read off its input."""
    return _Bright()


@pytest.fixture
def predictor(model: _Bright) -> Predictor:
    """32 px frames, 80 samples of sound, threshold 0.5."""
    description = ExportedModel(
        members=[LocalizerConfig()], image_size=32, sample_rate=8000, duration_s=0.01, threshold=0.5
    )
    return Predictor(cast("LocalizerEnsemble", model), description)


_LOUD = np.ones(80)


def _frame(height: int, width: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.zeros((height, width, 3), np.uint8)


def test_maps_and_boxes_come_at_each_frames_own_size(predictor: Predictor) -> None:
    """Frames of two shapes give maps of their shapes, and the boxes lie on the bright parts."""
    wide, tall = _frame(48, 96), _frame(100, 40)
    wide[:24, 48:] = 255  # the upper right quarter
    tall[50:] = 255  # the lower half
    first, second = predictor.predict([wide, tall], [_LOUD, _LOUD])
    assert first.map.shape == (48, 96)
    assert second.map.shape == (100, 40)
    assert first.grid.shape == second.grid.shape == (8, 8)
    np.testing.assert_allclose(first.grid[:3, 5:], 1, atol=0.05)
    assert first.map[6, 84] > 0.95
    assert first.map[40, 10] < 0.05
    (box,) = first.boxes
    assert box[:4] == pytest.approx((0.5, 0, 1, 0.5), abs=0.05)
    assert 0.5 <= box.confidence <= 1
    (box,) = second.boxes
    assert box[:4] == pytest.approx((0, 0.5, 1, 1), abs=0.05)


def test_more_clips_than_pass_at_once_keep_their_order(predictor: Predictor) -> None:
    """70 clips, more than two batches, come back in order."""
    frames = [np.full((8, 8, 3), value, np.uint8) for value in range(0, 210, 3)]
    found = predictor.predict(frames, [_LOUD] * len(frames))
    assert [float(one.map.mean()) for one in found] == pytest.approx([value / 255 for value in range(0, 210, 3)])


def test_sounds_are_tiled_or_cut_to_their_center(predictor: Predictor, model: _Bright) -> None:
    """The network hears what NumPy's tile and slices give."""
    short, exact, long = np.arange(30) / 200, np.arange(80) / 200, np.arange(200) / 200
    predictor.predict([_frame(8, 8)] * 3, [short, exact, long])
    expected = np.stack([np.tile(short, 3)[:80], exact, long[60:140]]).astype(np.float32)
    np.testing.assert_array_equal(model.waveforms.numpy(), expected)
    assert model.waveforms.dtype == torch.float32
    assert model.frames.shape == (3, 32, 32, 3)


def test_a_sound_louder_than_full_scale_is_scaled_as_in_preparation(predictor: Predictor, model: _Bright) -> None:
    """The network hears the peak of what it is given at 1."""
    predictor.predict([_frame(8, 8)], [np.concatenate([np.full(200, 9.0), np.linspace(-4, 2, 80), np.full(200, 9.0)])])
    np.testing.assert_allclose(model.waveforms[0].numpy(), np.linspace(-1, 0.5, 80), rtol=1e-6)


def test_nothing_above_the_threshold_has_no_box(predictor: Predictor) -> None:
    """P is absolute: a uniform 0.49 stays 0.49 and has no box."""
    (found,) = predictor.predict([np.full((16, 16, 3), 255, np.uint8)], [_LOUD * 0.49])
    assert found.boxes == []
    assert found.map == pytest.approx(np.full((16, 16), 0.49))
    assert predictor.predict([], []) == []


def test_boxes_are_the_regions_in_order_of_their_total_confidence() -> None:
    """Worked out by hand: area times mean decides, corners do not connect, the threshold counts as in."""
    confidence = np.zeros((10, 20), np.float32)
    confidence[1:3, 2:4] = 0.9  # total 3.6
    confidence[5:9, 10:15] = 0.6  # total 12
    confidence[0, 19] = 0.4  # below
    confidence[9, 15] = 0.5  # touches the large one by a corner alone; exactly the threshold
    found = find_boxes(confidence, 0.5)
    assert [box[:4] for box in found] == [(0.5, 0.5, 0.75, 0.9), (0.1, 0.1, 0.2, 0.3), (0.75, 0.9, 0.8, 1.0)]
    assert [box.confidence for box in found] == pytest.approx([0.6, 0.9, 0.5])


def test_bad_input_is_named(predictor: Predictor) -> None:
    """Every unusable frame or sound is refused with its position."""
    good = _frame(8, 8)
    nan = _LOUD.copy()
    nan[3] = np.nan
    cases: list[tuple[Any, Any, str]] = [
        ([good], [], "1 frames 0 waveforms"),
        ([good, good], [_LOUD, nan], "waveform 1 NaN"),
        ([good], [_LOUD * np.inf], "waveform 0 infinite"),
        ([good], [_LOUD[:0]], "waveform 0 empty"),
        ([good], [np.ones((80, 2))], "waveform 0 (80, 2)"),
        ([good], [np.ones(80, np.int16)], "waveform 0 int16"),
        ([good[..., 0]], [_LOUD], "frame 0 (8, 8)"),
        ([good, good.astype(np.float32)], [_LOUD, _LOUD], "frame 1 float32"),
        ([good[:0]], [_LOUD], "frame 0"),
    ]
    for frames, sounds, complaint in cases:
        with pytest.raises(InputError, match=facts(complaint)):
            predictor.predict(frames, sounds)
