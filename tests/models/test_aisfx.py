"""aiSFX's front end, from formulas written out."""

from __future__ import annotations

import numpy as np
import torch

from avsl.models.aisfx import AiSFXMel


def test_the_front_end_is_its_formula() -> None:
    """Power of Hann windows in mel triangles whose weights sum to 1, a logarithm, time first; level does not matter."""
    rng = np.random.default_rng(0)
    sound = rng.uniform(-0.3, 0.3, 20000)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 22050 / 700), 98) / 2595) - 1)
    bins = np.linspace(0, 22050, 1025)[:, None]
    bands = np.minimum((bins - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - bins) / np.diff(edges)[1:]).clip(0)
    bands /= bands.sum(0).clip(1e-8)
    padded = np.pad(sound / np.abs(sound).max(), 1024)
    window = 0.5 * (1 - np.cos(2 * np.pi * np.arange(2048) / 2048))
    frames = np.stack([padded[k : k + 2048] * window for k in range(0, 20001, 1024)])
    expected = np.log10(1 + 10000 * (np.abs(np.fft.rfft(frames)) ** 2 @ bands)) / 9.4578
    waveform = torch.from_numpy(sound)[None]
    heard = AiSFXMel(44100)(waveform)
    np.testing.assert_allclose(heard[0, 0].numpy(), expected, atol=2e-4)
    torch.testing.assert_close(AiSFXMel(44100)(0.1 * waveform), heard, atol=1e-4, rtol=1e-4)


def test_silence_and_short_sounds_pass() -> None:
    """As features of finite values, with frames enough for the network; 3 s at 16 kHz have 130."""
    front_end = AiSFXMel(16000)
    for samples in (1, 4000):
        heard = front_end(torch.zeros(2, samples))
        assert heard.isfinite().all()
        assert heard.shape[2] >= 8
    assert front_end(torch.zeros(1, 48000)).shape == (1, 1, 130, 96)
