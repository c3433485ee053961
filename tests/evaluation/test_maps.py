"""Maps of a part: own and shuffled sounds, batches, frames with several sounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.fixtures.localizers import Fake, Rows

from avsl.data.loading import RowReader
from avsl.data.prepared.reader import PreparedData
from avsl.data.transforms import plain_view
from avsl.evaluation.maps import compute_maps
from avsl.evaluation.scoring import control_sounds
from avsl.models import Localizer, LocalizerConfig


@pytest.mark.parametrize(("n", "batch_size"), [(2, 1), (3, 2), (6, 4), (6, 100)])
def test_no_frame_is_shuffled_to_its_own_sound(
    n: int, batch_size: int, noise: Fake, reader: RowReader, data: PreparedData
) -> None:
    """Each frame is seen with its own sound and with another's, and each sound is used once in the shuffle."""
    rows = data.indices("test")[:n]
    compute_maps([noise], reader, rows, batch_size, shuffle=True)
    own, other = [], []
    seen: set[int] = set()
    for start in range(0, n, batch_size):
        size = min(batch_size, n - start)
        calls, noise.sounds = noise.sounds[: 2 * size], noise.sounds[2 * size :]
        own += calls[:size]
        other += calls[size:]
    sounds = torch.from_numpy(data.waveforms(rows))
    for pairs, same in ((own, True), (other, False)):
        assert [index for index, _ in pairs] == rows.tolist()
        given = [int((sounds == heard).all(1).nonzero()) for _, heard in pairs]
        assert sorted(given) == list(range(n))
        assert [k == given[k] for k in range(n)] == [same] * n
        seen |= set(given)


def test_maps_do_not_depend_on_the_batch_size(noise: Fake, reader: RowReader, parts: dict[str, Rows]) -> None:
    """One at a time or all together: the same maps, shuffled ones too."""
    one, many = (compute_maps([noise], reader, parts["test_swap"], size, shuffle=True) for size in (1, 100))
    assert torch.equal(one.confidence, many.confidence)
    assert one.shuffled is not None
    assert many.shuffled is not None
    assert torch.equal(one.shuffled[0], many.shuffled[0])


def test_a_frame_heard_with_several_sounds_is_seen_once(
    reader: RowReader, data: PreparedData, parts: dict[str, Rows], tiny: LocalizerConfig
) -> None:
    """The maps are those of one pass for each sound, and the image encoder sees each frame once."""
    model = Localizer(tiny).eval()
    seen: list[int] = []
    model.image.register_forward_hook(lambda module, frames, output: seen.append(len(frames[0])))
    rows = parts["test"]
    maps = compute_maps([model], reader, rows, 4, shuffle=True, controls=control_sounds(data))
    assert sum(seen) == len(rows)
    view = plain_view(reader(rows, masks=False))
    with torch.inference_mode():
        silent = model(replace(view, waveform=torch.zeros(len(rows), data.manifest.n_samples_audio), features={}))
    assert maps.shuffled is not None
    torch.testing.assert_close(maps.controls["silence"], silent.confidence)
    torch.testing.assert_close(maps.members[0], model(view).confidence.detach())
    assert not torch.equal(maps.members[0], maps.shuffled[0])
