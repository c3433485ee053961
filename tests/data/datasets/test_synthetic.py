"""The embedded benchmark: reproducible, annotated exactly, and told apart by nothing but shape, texture, timbre."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.fixtures.messages import facts

from avsl.data.datasets.synthetic import (
    AREA_RANGE,
    CLASSES,
    HEARD_CLASSES,
    SMALL_RANGE,
    SNR_DB,
    UNHEARD_CLASSES,
    SyntheticConfig,
    generate,
    make_scene,
    synthesize,
)
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError
from avsl.schema import ConfigError

SMALL = SyntheticConfig(
    n_train=48,
    n_validation=12,
    n_test=24,
    n_small=24,
    n_duet=24,
    n_offscreen=12,
    n_swap=14,
    n_unheard=12,
    seed=7,
    shard_rows=32,
)
# The benchmark itself: results of different versions compare only while this stays. It changes with any pixel,
# sample or box, and with pyarrow's file format.
FROZEN = "b55c6b6a56b3d0dfd40ef86b98eb7556b5c05f7bfc99f324077857b67c56d318"
# Its rows. `test` is large enough that seeds, not rows, limit a comparison of methods: the standard error of a share is
# at most 1.1 points, where 400 rows left 2.5. Validation stays small, as its boxes are label cost.
FROZEN_ROWS = {"train": 3000, "validation": 300, "test": 2000} | dict.fromkeys(
    ("small", "duet", "offscreen", "swap", "unheard"), 150
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """A small benchmark with every part."""
    root = tmp_path_factory.mktemp("synthetic")
    generate(SMALL, root, workers=1)
    return PreparedData.open(root)


def files(root: Path) -> dict[str, bytes]:
    """The bytes of every file but the contact sheet."""
    return {path.name: path.read_bytes() for path in root.iterdir() if path.suffix != ".png"}


def test_the_generator_is_frozen(data: PreparedData) -> None:
    """The content hash is the one the benchmark was fixed at, and so are its numbers of rows."""
    assert data.manifest.content_hash == FROZEN
    assert SyntheticConfig() == SyntheticConfig(
        image_size=64, duration_s=1.0, seed=0, **{f"n_{k}": n for k, n in FROZEN_ROWS.items()}
    )


def test_counts_and_names(data: PreparedData) -> None:
    """Each part has the rows asked for; neither shape nor texture alone gives a class away."""
    assert data.manifest.counts == {
        "train": 48,
        "validation": 12,
        "test": 24,
        "test_small": 24,
        "test_duet": 24,
        "test_offscreen": 12,
        "test_swap": 14,
        "test_unheard": 12,
    }
    assert len(set(data.sample_ids)) == len(data) == 170
    assert len(HEARD_CLASSES) >= 12
    assert not set(HEARD_CLASSES) & set(UNHEARD_CLASSES)
    shapes = Counter(label.split("-")[0] for label in CLASSES)
    textures = Counter(label.split("-")[1] for label in CLASSES)
    assert set(shapes.values()) == set(textures.values()) == {2}, "neither shape nor texture alone is a class"


@pytest.mark.slow
def test_two_workers_make_the_same_bytes(data: PreparedData, tmp_path: Path) -> None:
    """The files do not depend on the number of workers."""
    generate(SMALL, tmp_path, workers=2)
    assert files(tmp_path) == files(data.root)


def test_an_interrupted_generation_makes_only_what_is_missing(data: PreparedData, tmp_path: Path) -> None:
    """Whole shards are kept, lost and damaged ones made again."""
    whole = files(data.root)
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "shard-00001.arrow").unlink()
    (tmp_path / "shard-00002.arrow").write_bytes(whole["shard-00002.arrow"][:-1])
    (tmp_path / "shard-00003.json").write_text("{}")
    stamps = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    generate(SMALL, tmp_path, workers=1)
    assert files(tmp_path) == whole
    shards = [path for path in tmp_path.glob("*.arrow") if path.name in stamps]
    kept = {path.name for path in shards if path.stat().st_mtime_ns == stamps[path.name]}
    assert kept == {name for name in whole if name.endswith(".arrow")} - {f"shard-0000{k}.arrow" for k in (1, 2, 3)}


def test_another_config_keeps_no_shard_of_the_old_one(data: PreparedData, tmp_path: Path) -> None:
    """Other settings in the same folder leave nothing of the old set."""
    for name, content in files(data.root).items():
        (tmp_path / name).write_bytes(content)
    changed = SMALL.model_copy(update={"seed": 8, "n_train": 12})
    manifest = generate(changed, tmp_path, workers=1)
    assert not {shard.sha256 for shard in manifest.shards} & {shard.sha256 for shard in data.manifest.shards}
    assert len(list(tmp_path.glob("*.arrow"))) == len(manifest.shards) < len(data.manifest.shards)


def test_a_scene_depends_on_neither_shards_nor_other_parts(data: PreparedData) -> None:
    """A scene is decided by seed, part and number alone."""
    other = SMALL.model_copy(update={"shard_rows": 5, "n_train": 1000})
    i = int(data.indices("test")[17])
    (scene,) = make_scene(other, "test", 17)
    np.testing.assert_array_equal(data.frames(np.array([i]))[0], scene.frame)
    np.testing.assert_array_equal(data.waveforms(np.array([i]))[0] * 32768, scene.waveform)


def test_boxes_are_tight_and_areas_within_range(data: PreparedData) -> None:
    """A box encloses its object exactly, and objects have the sizes stated."""
    rows = np.arange(len(data))
    masks, boxed, meta = data.object_masks(rows), data.box_masks(rows), data.meta(rows)
    for i in rows.tolist():
        boxes = data.boxes(i)
        assert boxes is not None
        assert not (masks[i] & ~boxed[i]).any()
        assert meta[i]["area"] == pytest.approx(masks[i].mean(), abs=1e-4)
        if len(boxes) != 1:
            continue
        # Each outermost line of the box holds a pixel of the object.
        tight = boxed[i][boxed[i].any(axis=1)][:, boxed[i].any(axis=0)]
        inside = masks[i][boxed[i].any(axis=1)][:, boxed[i].any(axis=0)]
        assert tight.all()
        assert all(line.any() for line in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
        low, high = SMALL_RANGE if data.parts[i] == "test_small" else AREA_RANGE
        assert low <= masks[i].mean() <= high
    areas = masks[data.indices("train")].mean(axis=(1, 2))
    assert areas.min() < 0.04
    assert areas.max() > 0.15


def test_who_sounds_and_who_is_in_view(data: PreparedData) -> None:
    """Sounding objects, distractors and boxes are as each part promises."""
    everything = data.meta(np.arange(len(data)))
    for i, meta in enumerate(everything):
        part, label, boxes = data.parts[i], data.labels[i], data.boxes(i)
        assert boxes is not None
        sounding, in_view = meta["sounding"], meta["in_view"]
        assert label == "+".join(sounding)
        assert 1 <= len(in_view) <= 3
        assert len(set(in_view)) == len(in_view), "a distractor is of another class"
        assert SNR_DB[0] <= meta["snr_db"] <= SNR_DB[1]
        if part == "test_offscreen":
            assert len(boxes) == 0
            assert label not in in_view
        else:
            assert len(boxes) == len(sounding) == (2 if part == "test_duet" else 1)
            assert set(sounding) <= set(in_view)
        if part == "test_unheard":
            assert label in UNHEARD_CLASSES
        else:
            assert set(in_view) | set(sounding) <= set(HEARD_CLASSES)
    per_class = Counter(data.labels[data.indices("train")])
    assert per_class == dict.fromkeys(HEARD_CLASSES, 4)
    assert {len(everything[i]["in_view"]) for i in data.indices("train")} == {1, 2, 3}
    assert {part for part in data.parts if data.mixed(data.indices(part)).any()} == {"test_duet"}
    assert data.mixed(data.indices("test_duet")).all()


def test_swapped_sounds_share_a_frame_and_move_the_box(data: PreparedData) -> None:
    """A swap group has one frame, and each sound its own object."""
    rows = data.indices("test_swap")
    groups = [rows[data.group_ids[rows] == group] for group in np.unique(data.group_ids[rows])]
    assert sorted({len(group) for group in groups}) == [2, 3]
    for group in groups:
        frames, masks, waveforms = data.frames(group), data.object_masks(group), data.waveforms(group)
        assert (frames == frames[0]).all()
        assert len(set(data.source_ids[group])) == 1
        assert sorted(data.labels[group]) == data.meta(group)[0]["in_view"]
        assert (masks.sum(axis=0) <= 1).all()
        assert len(np.unique(waveforms, axis=0)) == len(group)
    others = np.setdiff1d(np.arange(len(data)), rows)
    assert len(set(data.group_ids[others])) == len(set(data.source_ids[others])) == len(others)


@pytest.mark.parametrize("n_swap", [0, 2, 3, 4, 6, 8])
def test_swap_rows_are_as_many_as_asked_for(n_swap: int, tmp_path: Path) -> None:
    """Groups of two and three add up to any number of rows."""
    none = dict.fromkeys(("n_small", "n_duet", "n_offscreen", "n_unheard"), 0)
    config = SyntheticConfig(n_train=1, n_validation=1, n_test=1, n_swap=n_swap, duration_s=0.25, **none)
    manifest = generate(config, tmp_path, workers=1)
    assert manifest.counts.get("test_swap", 0) == n_swap


def _explained(values: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Share of the variance that lies between classes."""
    means = np.array([values[labels == k].mean(axis=0) for k in np.unique(labels)])[labels]
    return float(((means - values.mean(axis=0)) ** 2).sum() / ((values - values.mean(axis=0)) ** 2).sum())


def test_color_position_and_size_do_not_tell_the_class() -> None:
    """Permutation tests find the class in none of the three, but in the shape."""
    scenes = [make_scene(SMALL, "train", i)[0] for i in range(360)]
    labels = np.array([HEARD_CLASSES.index(scene.label) for scene in scenes])
    masks = [scene.mask for scene in scenes if scene.mask is not None]
    boxes = np.array([scene.boxes[0] for scene in scenes if scene.boxes is not None], dtype=np.float64)
    features = {
        "color": np.array([scene.frame[mask].mean(axis=0) for scene, mask in zip(scenes, masks, strict=True)]),
        "position": np.array([np.argwhere(mask).mean(axis=0) for mask in masks]),
        "size": np.array([[np.log(mask.mean())] for mask in masks]),
        # The control: shapes differ, so the box's proportions do tell the class, and this test can see it.
        "proportions": np.log((boxes[:, 2:3] - boxes[:, 0:1]) / (boxes[:, 3:4] - boxes[:, 1:2])),
    }
    rng = np.random.default_rng(0)
    p_values = {}
    for name, values in features.items():
        observed = _explained(values, labels)
        p_values[name] = np.mean([_explained(values, rng.permutation(labels)) >= observed for _ in range(200)])
    assert p_values.pop("proportions") == 0
    assert min(p_values.values()) > 0.01, p_values


def test_timbres_are_told_apart_despite_pitch_tempo_and_phase() -> None:
    """Nearest centroid of coarse log spectra: far above the chance of 1 in 16, below perfect as pitch moves."""

    def spectrum(label: str, seed: int) -> NDArray[np.float64]:
        signal = synthesize(label, np.random.default_rng(seed), 16000)
        assert np.mean(signal**2) == pytest.approx(1)
        power = np.abs(np.fft.rfft(signal)[:8000]) ** 2
        edges = np.unique(np.geomspace(40, 7999, 40).astype(int))
        return np.log(np.add.reduceat(power, edges) + 1.0)

    centroids = np.array([np.mean([spectrum(label, seed) for seed in range(8)], axis=0) for label in CLASSES])
    hits = [
        int(np.argmin(((centroids - spectrum(label, seed)) ** 2).sum(axis=1))) == k
        for k, label in enumerate(CLASSES)
        for seed in range(100, 104)
    ]
    assert np.mean(hits) > 0.7


def test_other_frame_sizes_and_durations() -> None:
    """Frames and sounds have the sizes asked for."""
    config = SyntheticConfig(image_size=48, duration_s=0.5)
    (scene,) = make_scene(config, "test_duet", 3)
    assert scene.frame.shape == (48, 48, 3)
    assert scene.waveform.shape == (8000,)
    assert scene.mask is not None
    assert scene.mask.any()


def test_contact_sheet_shows_each_part(data: PreparedData) -> None:
    """Every part's row shows boxes, except the one where nothing in view sounds."""
    sheet = np.asarray(Image.open(data.root / "contact_sheet.png"))
    rows = np.array_split(sheet, 8)
    red = [int((row == (255, 0, 0)).all(axis=2).sum()) for row in rows]
    assert red[5] == 0, "off-screen scenes have no box"
    assert min(red[:5] + red[6:]) > 100


@pytest.mark.parametrize(
    ("change", "named"),
    [({"n_train": 0}, "synthetic.n_train"), ({"n_swap": 1}, "synthetic.n_swap"), ({"size": 64}, "synthetic.size")],
)
def test_bad_settings_name_the_key(change: dict[str, int], named: str) -> None:
    """Values out of range and unknown keys are refused by name."""
    with pytest.raises(ConfigError, match=facts(named)):
        SyntheticConfig.read(change, "synthetic")


def test_no_worker_is_refused(tmp_path: Path) -> None:
    """Zero workers is an error, not a hang."""
    with pytest.raises(DataError, match="workers = 0"):
        generate(SMALL, tmp_path, workers=0)
