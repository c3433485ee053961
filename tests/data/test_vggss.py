"""Preparation of VGG-SS folders: annotations, parts, broken media, resuming."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from avsl.data.errors import DataError
from avsl.data.shards import PreparedData
from avsl.data.vggss import VGGSSConfig, assign_parts, clean_boxes, generate, read_annotations, source_of
from avsl.schema import ConfigError

SHARED = Path(os.environ.get("AVSL_SHARED_DIR", Path(__file__).parents[3] / "shared"))
ROWS = 12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve annotated samples in frames/ and audio/; sample k is a grey frame with a tone."""
    root = tmp_path / "source"
    (root / "frames").mkdir(parents=True)
    (root / "audio").mkdir()
    for k in range(ROWS):
        add_media(root, f"s{k:02d}", k)
    rows = [{"file": f"s{k:02d}", "class": f"c{k % 3}", "bbox": [[0.25, 0.5, 0.75, 1.0]]} for k in range(ROWS)]
    (root / "vggss.json").write_text(json.dumps(rows))
    (root / "test.csv").write_text("s00\ns01,c1\n")
    return root


def add_media(root: Path, name: str, k: int) -> None:
    """A frame and a sound that tell k."""
    Image.fromarray(np.full((40, 60, 3), 10 * k, np.uint8)).save(root / "frames" / f"{name}.png")
    wave = 0.5 * np.sin(2 * np.pi * (200 + 50 * k) * np.arange(16000) / 16000)
    soundfile.write(root / "audio" / f"{name}.flac", wave, 16000)


def config(folder: Path, **changes: object) -> VGGSSConfig:
    """Settings for the test folder, with changes."""
    settings = {"root": str(folder), "image_size": 32, "duration_s": 0.5, "shard_rows": 5, "test_list": "test.csv"}
    return VGGSSConfig.read(settings | changes, "data.vggss")


def quarantined(out: Path) -> dict[str, str]:
    """Why each sample was left out, by its name."""
    with (out / "quarantine.csv").open() as file:
        return {row["sample_id"]: row["reason"] for row in csv.DictReader(file)}


def test_rows_carry_frame_sound_and_boxes(folder: Path, tmp_path: Path) -> None:
    """A prepared row has its own frame, the middle of its sound, and its boxes."""
    out = tmp_path / "out"
    manifest = generate(config(folder), out, 1)
    data = PreparedData.open(out)
    assert data.sample_ids == [f"s{k:02d}" for k in range(ROWS)]
    assert manifest.classes == ["c0", "c1", "c2"]
    everything = np.arange(ROWS)
    np.testing.assert_array_equal(data.frames(everything)[:, 0, 0, 0], 10 * everything)
    np.testing.assert_array_equal(data.boxes(3), np.array([[0.25, 0.5, 0.75, 1.0]], np.float32))
    centre, _ = soundfile.read(folder / "audio" / "s03.flac", start=4000, frames=8000)
    np.testing.assert_allclose(data.waveforms(np.array([3]))[0], centre, atol=1e-4)
    assert list(data.parts[:2]) == ["test", "test"]
    assert set(data.parts[2:]) <= {"train", "validation"}
    assert quarantined(out) == {}
    assert (out / "contact_sheet.png").stat().st_size > 0


def test_bytes_do_not_depend_on_workers_and_a_lost_shard_is_made_again(folder: Path, tmp_path: Path) -> None:
    """Equal content with one or two workers and after an interruption."""
    one, two = tmp_path / "one", tmp_path / "two"
    first = generate(config(folder), one, 1)
    assert generate(config(folder), two, 2).content_hash == first.content_hash
    (one / first.shards[1].file).unlink()
    (one / "manifest.json").unlink()
    kept = (one / first.shards[0].file).stat().st_mtime_ns
    assert generate(config(folder), one, 1) == first
    assert (one / first.shards[0].file).stat().st_mtime_ns == kept


def test_changed_media_are_decoded_again(folder: Path, tmp_path: Path) -> None:
    """A picture replaced under the same name reaches the prepared set."""
    out = tmp_path / "out"
    before = generate(config(folder), out, 1)
    Image.fromarray(np.full((400, 600, 3), 200, np.uint8)).save(folder / "frames" / "s03.png")
    assert generate(config(folder), out, 1).content_hash != before.content_hash
    assert PreparedData.open(out).frames(np.array([3]))[0, 0, 0, 0] == 200


def test_broken_media_are_quarantined_with_the_reason(folder: Path, tmp_path: Path) -> None:
    """Each unusable sample is listed with why; too many of them stop the preparation."""
    (folder / "frames" / "s03.png").unlink()
    (folder / "audio" / "s04.flac").write_bytes(b"")
    soundfile.write(folder / "audio" / "s05.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    (folder / "audio" / "s05.flac").unlink()
    picture = folder / "frames" / "s06.png"
    picture.write_bytes(picture.read_bytes()[:60])
    out = tmp_path / "out"
    generate(config(folder, max_broken=0.5), out, 1)
    reasons = quarantined(out)
    assert reasons.keys() == {"s03", "s04", "s05", "s06"}
    for name, word in {"s03": "no frame", "s04": "empty", "s05": "NaN", "s06": "cannot read the picture"}.items():
        assert word in reasons[name]
        assert name in reasons[name]
    assert len(PreparedData.open(out)) == ROWS - 4
    with pytest.raises(DataError, match=r"4 of 12 samples are unusable, more than max_broken = 0\.3"):
        generate(config(folder, max_broken=0.3), out, 1)
    assert not (out / "manifest.json").exists()


def test_a_sample_whose_boxes_all_vanish_is_not_one_where_nothing_sounds(folder: Path, tmp_path: Path) -> None:
    """Degenerate boxes quarantine a sample; an empty list keeps it as silent."""
    rows = json.loads((folder / "vggss.json").read_text())
    rows[2]["bbox"] = [[0.5, 0.5, 0.5, 0.9], [0.3, 0.3, -2.88e16, 0.9]]
    rows[3]["bbox"] = [[-0.2, 0.5, 1.3, -2.88e16], [-0.2, 0.5, 1.3, 0.75]]
    rows[4]["bbox"] = []
    (folder / "vggss.json").write_text(json.dumps(rows))
    out = tmp_path / "out"
    generate(config(folder), out, 1)
    data = PreparedData.open(out)
    assert "none of its 2 boxes covers a pixel" in quarantined(out)["s02"]
    np.testing.assert_array_equal(data.boxes(data.sample_ids.index("s03")), np.array([[0, 0.5, 1, 0.75]], np.float32))
    nothing = data.boxes(data.sample_ids.index("s04"))
    assert nothing is not None
    assert nothing.shape == (0, 4)


def test_unannotated_media_are_unlabelled_training_rows_unless_their_video_is_held_out(
    folder: Path, tmp_path: Path
) -> None:
    """A held-out video gives no training row."""
    video, other = "abcdefghijk", "ABCDEFGHIJK"
    rows = json.loads((folder / "vggss.json").read_text())
    rows.append({"file": f"{video}_000010", "class": "c0", "bbox": [[0, 0, 1, 1]]})
    (folder / "vggss.json").write_text(json.dumps(rows))
    (folder / "test.csv").write_text(f"{video}_000010\n")
    for name in (f"{video}_000010", f"{video}_000040", f"{other}_000040"):
        add_media(folder, name, 5)
    out = tmp_path / "out"
    generate(config(folder), out, 1)
    data = PreparedData.open(out)
    assert f"{video}_000040" not in data.sample_ids
    row = data.sample_ids.index(f"{other}_000040")
    assert data.boxes(row) is None
    assert data.parts[row] == "train"


def test_clips_of_one_video_share_a_part_and_nobody_moves_when_others_come() -> None:
    """Parts are decided per video, independently of the others."""
    names = [f"video{k:06d}_{start:06d}" for k in range(2000) for start in (0, 30)]
    settings = VGGSSConfig(root=".", validation_share=0.1, test_share=0.25)
    parts = assign_parts(names, None, settings)
    assert all(parts[names[i]] == parts[names[i + 1]] for i in range(0, len(names), 2))
    shares = Counter(parts.values())
    assert shares["test"] / len(names) == pytest.approx(0.25, abs=0.03)
    assert shares["validation"] / len(names) == pytest.approx(0.075, abs=0.02)
    fewer = assign_parts(names[:500], None, settings)
    assert all(parts[name] == part for name, part in fewer.items())
    listed = assign_parts(names, {names[0]}, settings)
    assert [name for name, part in listed.items() if part == "test"] == names[:2]
    assert source_of("scene_00001") == "scene_00001"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": "none.json"}, r"none\.json: no such annotation file"),
        ({"test_list": "none.csv"}, r"none\.csv: no such test list"),
        ({"root": "/no/such/folder"}, "/no/such/folder: no such folder"),
        ({"annotations": "test.csv"}, r"test\.csv: not valid JSON"),
    ],
)
def test_missing_inputs_are_one_sentence(folder: Path, tmp_path: Path, change: dict[str, str], message: str) -> None:
    """A missing folder or file is named."""
    with pytest.raises(DataError, match=message):
        generate(config(folder, **change), tmp_path / "out", 1)


def test_wrong_annotations_and_settings_are_named(folder: Path) -> None:
    """Malformed or repeated annotations and wrong settings say what is wrong."""
    path = folder / "vggss.json"
    path.write_text(json.dumps([{"file": "a", "class": "c", "bbox": [[0, 0, 1]]}]))
    with pytest.raises(DataError, match=r"vggss\.json: not a list of 'file', 'class' and 'bbox'"):
        read_annotations(path)
    path.write_text(json.dumps([{"file": "a", "class": "c", "bbox": []}] * 2))
    with pytest.raises(DataError, match="'a' is annotated twice"):
        read_annotations(path)
    with pytest.raises(ConfigError, match=r"data\.vggss\.validation_share"):
        config(folder, validation_share=1.5)
    with pytest.raises(ConfigError, match=r"unknown key 'data\.vggss\.frames'"):
        config(folder, frames="x")


@pytest.mark.skipif(not (SHARED / "annotations").is_dir(), reason="AVSL_SHARED_DIR holds no annotations")
def test_published_annotations() -> None:
    """The published file holds the known numbers of clips, classes and degenerate boxes."""
    annotated = read_annotations(SHARED / "annotations" / "vggss.json")
    assert len(annotated) == 5158
    assert len({label for label, _ in annotated.values()}) == 221
    cleaned = {name: clean_boxes(boxes, 224) for name, (_, boxes) in annotated.items()}
    assert sum((boxes < -1e16).any(axis=1).sum() for _, boxes in annotated.values()) == 12
    assert sum(len(boxes) - len(cleaned[name]) for name, (_, boxes) in annotated.items()) == 18
    assert sum(not len(boxes) for boxes in cleaned.values()) == 2
    kept = np.concatenate(list(cleaned.values()))
    assert ((kept >= 0) & (kept <= 1)).all()
    assert (kept[:, :2] < kept[:, 2:]).all()


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "clips").is_dir(), reason="AVSL_SHARED_DIR holds no clips")
def test_real_clips_are_decoded(tmp_path: Path) -> None:
    """Real videos become rows with content in frame, sound and boxes."""
    settings = VGGSSConfig(root=str(SHARED / "clips"), annotations="boxes.json", image_size=64, duration_s=1.0)
    generate(settings, tmp_path, 1)
    data = PreparedData.open(tmp_path)
    assert len(data) == 4
    everything = np.arange(4)
    assert data.frames(everything).std(axis=(1, 2, 3)).min() > 20
    assert data.waveforms(everything).std(axis=1).min() > 1e-3
    assert data.box_masks(everything).any(axis=(1, 2)).all()
