"""Front ends against the published arrays, SciPy and formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import signal
from tests.fixtures.reference import LoadReference
from torch import Tensor

from avsl.models.front_ends import LogMel, LogMelConfig, LogSpectrogram, LogSpectrogramConfig
from avsl.models.vggish import VGGishExamples
from avsl.models.waveform import RawWaveform
from avsl.types import FrontEnd

Array = NDArray[np.float64]


def _sounds(samples: int, rows: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(rows, samples, generator=torch.Generator().manual_seed(seed)) - 0.5


@pytest.fixture(scope="module")
def published(load_reference: LoadReference) -> dict[str, Tensor]:
    """The sound in official_checkpoints.npz and what the published code hears in it."""
    return load_reference("official_checkpoints.npz")


@pytest.mark.reference
def test_the_log_spectrogram_is_the_published_one(published: dict[str, Tensor]) -> None:
    """Every value, before the division by 12."""
    heard = LogSpectrogram(LogSpectrogramConfig(scale=1))(published["waveform"][None])
    torch.testing.assert_close(heard[0, 0], published["log_spectrogram"], rtol=1e-4, atol=1e-4)


@pytest.mark.reference
def test_vggish_hears_the_published_examples(published: dict[str, Tensor]) -> None:
    """Three examples of 96 frames lie one after the other."""
    heard = VGGishExamples()(published["waveform"][None])
    assert heard.shape == (1, 1, 288, 64)
    torch.testing.assert_close(heard.view(3, 1, 96, 64), published["vggish_log_mel"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop", "scale"), [(512, 238, 12.0), (256, 100, 1.0)])
def test_the_log_spectrogram_is_scipys(n_fft: int, hop: int, scale: float) -> None:
    """SciPy's power spectral density with its own defaults, its logarithm scaled."""
    waveform = _sounds(4000)
    config = LogSpectrogramConfig(n_fft=n_fft, hop_length=hop, scale=scale)
    _, _, density = signal.spectrogram(waveform.double().numpy(), 16000, nperseg=n_fft, noverlap=n_fft - hop)
    expected = np.log(density + 1e-7) / scale
    np.testing.assert_allclose(LogSpectrogram(config)(waveform)[:, 0].numpy(), expected, atol=1e-4)


def _vggish(sound: Array) -> Array:
    """VGGish's log-mel frames of one sound, band by band: (frames, 64)."""

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1 + hertz / 700.0)

    window = [0.5 - 0.5 * math.cos(2 * math.pi * n / 400) for n in range(400)]
    edges = np.linspace(mel(125.0), mel(7500.0), 66)
    weights = np.zeros((257, 64))
    for k in range(257):
        at = mel(k * 16000 / 512)
        for band in range(64):
            low, center, high = edges[band : band + 3]
            if low < at < high:
                weights[k, band] = (at - low) / (center - low) if at < center else (high - at) / (high - center)
    frames = []
    for start in range(0, len(sound) - 399, 160):
        spectrum = np.abs(np.fft.rfft(sound[start : start + 400] * window, 512))
        frames.append(np.log(spectrum @ weights + 0.01))
    return np.array(frames)


@pytest.mark.parametrize("samples", [15600, 16000, 33000])
def test_vggish_hears_what_the_loop_says(samples: int) -> None:
    """Whole examples of 96 frames; what is left after the last one is not heard."""
    waveform = _sounds(samples, rows=1)
    frames = _vggish(waveform[0].double().numpy())
    whole = len(frames) // 96 * 96
    heard = VGGishExamples()(waveform)
    assert heard.shape == (1, 1, whole, 64)
    np.testing.assert_allclose(heard[0, 0].numpy(), frames[:whole], atol=1e-4)


@pytest.mark.parametrize("samples", [1, 4000, 15599])
def test_a_sound_shorter_than_an_example_is_repeated(samples: int) -> None:
    """It is heard as if it had been played again until 0.975 s are full."""
    waveform = _sounds(samples)
    again = torch.cat([waveform] * -(-15600 // samples), dim=-1)[:, :15600]
    heard = VGGishExamples()(waveform)
    assert heard.shape == (2, 1, 96, 64)
    assert torch.equal(heard, VGGishExamples()(again))


@pytest.mark.parametrize("front_end", [LogSpectrogram(LogSpectrogramConfig()), VGGishExamples()])
def test_quiet_sounds_survive_half_precision(front_end: LogSpectrogram | VGGishExamples) -> None:
    """Under autocast everything is computed as without it; silence is finite."""
    waveform = 1e-3 * _sounds(16000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        heard = front_end(waveform)
    assert heard.dtype == torch.float32
    assert torch.equal(heard, front_end(waveform))
    assert front_end(torch.zeros(1, 16000)).isfinite().all()


def test_a_raw_waveform_is_left_alone() -> None:
    """One channel of samples; not worth a cache."""
    waveform = _sounds(1000)
    assert torch.equal(RawWaveform()(waveform), waveform[:, None])
    assert not RawWaveform.cacheable


@pytest.mark.parametrize("samples", [16000, 16001, 16003])
@pytest.mark.parametrize(
    "front_end", [LogMel(LogMelConfig()), LogSpectrogram(LogSpectrogramConfig()), VGGishExamples()]
)
def test_a_sound_is_heard_alike_wherever_it_lies_in_memory(front_end: FrontEnd, samples: int) -> None:
    """To the bit, cut from a block of sounds or alone: features are cached from blocks."""
    sounds = _sounds(samples, rows=9)
    for k in range(len(sounds)):
        assert torch.equal(front_end(sounds[k : k + 1]), front_end(sounds[k : k + 1].clone()))
