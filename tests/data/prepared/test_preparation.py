"""From an index to prepared shards: media, quarantine, resuming, n of N, and the look before it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from tests.fixtures.messages import facts, says

from avsl.data.index import Entry, Index, IndexedConfig
from avsl.data.prepared.preparation import PartState, check_index, clean_boxes, prepare_index
from avsl.data.prepared.reader import PreparedData
from avsl.errors import DataError

ROWS = 12
LISTED = {"test_list": "test.csv"}
Prepare = Callable[..., PreparedData]
ReadCSV = Callable[[Path], list[Mapping[str, Any]]]


@pytest.fixture
def folder(tmp_path: Path, add_row: Callable[[Path, str, int], None]) -> Path:
    """Twelve annotated samples in frames/ and audio/, of which s00 and s01 are for testing."""
    root = tmp_path / "source"
    for k in range(ROWS):
        add_row(root, f"s{k:02d}", k)
    rows = [{"file": f"s{k:02d}", "class": f"c{k % 3}", "bbox": [[0.25, 0.5, 0.75, 1.0]]} for k in range(ROWS)]
    (root / "vggss.json").write_text(json.dumps(rows))
    (root / "test.csv").write_text("s00\ns01,c1\n")
    return root


def reasons(rows: list[Mapping[str, Any]]) -> dict[str, str]:
    """Why each sample was left out, by its name."""
    return {row["sample_id"]: row["reason"] for row in rows}


def test_rows_carry_frame_sound_and_boxes(folder: Path, tmp_path: Path, prepare: Prepare, read_csv: ReadCSV) -> None:
    """A prepared row has its own frame, the middle of its sound, and its boxes."""
    data = prepare("vggss", folder, **LISTED)
    assert data.sample_ids == [f"s{k:02d}" for k in range(ROWS)]
    assert data.manifest.classes == ["c0", "c1", "c2"]
    everything = np.arange(ROWS)
    np.testing.assert_array_equal(data.frames(everything)[:, 0, 0, 0], 10 * everything)
    np.testing.assert_array_equal(data.boxes(3), np.array([[0.25, 0.5, 0.75, 1.0]], np.float32))
    center, _ = soundfile.read(folder / "audio" / "s03.flac", start=4000, frames=8000)
    np.testing.assert_allclose(data.waveforms(np.array([3]))[0], center, atol=1e-4)
    assert list(data.parts[:2]) == ["test", "test"]
    assert set(data.parts[2:]) <= {"train", "validation"}
    assert read_csv(tmp_path / "out" / "quarantine.csv") == []
    assert read_csv(tmp_path / "out" / "leaks.csv") == []
    assert (tmp_path / "out" / "contact_sheet.png").stat().st_size > 0


def test_bytes_do_not_depend_on_workers_and_a_lost_shard_is_made_again(
    folder: Path, tmp_path: Path, prepare: Prepare
) -> None:
    """Equal content with one or two workers and after an interruption."""
    first = prepare("vggss", folder, out="one", **LISTED).manifest
    one = tmp_path / "one"
    assert prepare("vggss", folder, 2, out="two", **LISTED).manifest == first
    (one / first.shards[1].file).unlink()
    (one / "manifest.json").unlink()
    kept = (one / first.shards[0].file).stat().st_mtime_ns
    assert prepare("vggss", folder, out="one", **LISTED).manifest == first
    assert (one / first.shards[0].file).stat().st_mtime_ns == kept
    assert not list(tmp_path.glob(".*")), "the rows' file has gone"


def test_every_name_that_a_list_can_hold_is_one_row_of_the_quarantine(
    folder: Path, tmp_path: Path, prepare: Prepare, read_csv: ReadCSV
) -> None:
    """Line ends, quotes, commas and NUL in an annotation's names: n of N stays right, and a reader finds each."""
    names = ["a\nb", "a\rb", "a\r\nb", 'a"b', "a,b", "a\0b", "ɹ🐈", "../a", "[/b]"]
    rows = json.loads((folder / "vggss.json").read_text())
    rows += [{"file": name, "class": "c", "bbox": []} for name in names]
    (folder / "vggss.json").write_text(json.dumps(rows))
    data = prepare("vggss", folder, max_broken=0.9, **LISTED)
    found = [row["sample_id"] for row in read_csv(tmp_path / "out" / "quarantine.csv")]
    assert sorted(name.replace("\\r", "\r") for name in found) == sorted(names)
    assert sum(data.manifest.expected.values()) == ROWS + len(names)


def test_changed_media_are_decoded_again(folder: Path, prepare: Prepare) -> None:
    """A picture replaced under the same name reaches the prepared set."""
    before = prepare("vggss", folder, **LISTED).manifest
    Image.fromarray(np.full((400, 600, 3), 200, np.uint8)).save(folder / "frames" / "s03.png")
    data = prepare("vggss", folder, **LISTED)
    assert data.manifest.content_hash != before.content_hash
    assert data.frames(np.array([3]))[0, 0, 0, 0] == 200


def _annotate(folder: Path, names: list[str], boxes: dict[str, list[list[float]]]) -> None:
    rows = [{"file": name, "class": "c", "bbox": boxes.get(name, [[0.25, 0.5, 0.75, 1.0]])} for name in names]
    (folder / "vggss.json").write_text(json.dumps(rows))


@pytest.mark.parametrize("change", ["picture", "sound", "box", "added", "deleted", "broken", "found"])
def test_a_change_makes_few_shards_again_and_the_past_does_not_show(
    change: str, tmp_path: Path, add_row: Callable[[Path, str, int], None], prepare: Prepare
) -> None:
    """Shards without the changed row are neither made again nor renamed; all files are those of a fresh preparation."""
    source, names = tmp_path / "source", [f"s{k:02d}" for k in range(40)]
    boxes: dict[str, list[list[float]]] = {}
    for k, name in enumerate(names):
        add_row(source, name, k % 25)
    if change == "found":
        (source / "audio" / "s17.flac").unlink()
    _annotate(source, names, boxes)
    before = prepare("vggss", source).manifest
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.arrow")}
    assert max(shard.rows for shard in before.shards) <= 5

    match change:
        case "picture":
            Image.fromarray(np.full((40, 60, 3), 255, np.uint8)).save(source / "frames" / "s17.png")
        case "sound" | "found":
            wave = 0.5 * np.sin(2 * np.pi * 3000 * np.arange(16000) / 16000)
            soundfile.write(source / "audio" / "s17.flac", wave, 16000)
        case "box":
            boxes["s17"] = [[0.0, 0.0, 0.5, 0.5]]
        case "added":
            names.insert(17, "new")
            add_row(source, "new", 7)
        case "deleted":
            names.remove("s17")
        case "broken":
            (source / "audio" / "s17.flac").write_bytes(b"not a sound")
    _annotate(source, names, boxes)
    after = prepare("vggss", source).manifest
    kept = {(s.file, s.sha256) for s in before.shards} & {(s.file, s.sha256) for s in after.shards}
    # A row that comes or goes may also move the ends of the shards beside its own.
    assert 1 <= len(before.shards) - len(kept) <= (3 if change in ("added", "deleted") else 1)
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == times[name] for name, _ in kept)

    prepare("vggss", source, out="fresh")
    files = [{path.name: path.read_bytes() for path in (tmp_path / out).iterdir()} for out in ("out", "fresh")]
    assert files[0] == files[1]


def test_where_the_folder_lies_does_not_show(folder: Path, tmp_path: Path, prepare: Prepare) -> None:
    """Not even in what is said about a broken file, which is kept with its shard."""
    (folder / "audio" / "s04.flac").write_bytes(b"")
    prepare("vggss", folder, **LISTED)
    said = (tmp_path / "out" / "quarantine.csv").read_text()
    assert says(said, "s04,audio/s04.flac")
    prepare("vggss", folder.rename(tmp_path / "moved"), **LISTED)
    assert (tmp_path / "out" / "quarantine.csv").read_text() == said


def test_settings_that_only_choose_rows_keep_the_shards_they_do_not_touch(
    folder: Path, tmp_path: Path, prepare: Prepare
) -> None:
    """Another ``max_broken`` makes nothing again, other frames make everything again."""

    def times() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.arrow")}

    prepare("vggss", folder, **LISTED)
    before = times()
    data = prepare("vggss", folder, max_broken=0.5, **LISTED)
    assert times() == before
    assert data.manifest.settings["max_broken"] == 0.5
    prepare("vggss", folder, image_size=16, **LISTED)
    assert times().keys() == before.keys()
    assert not times().items() & before.items()


def test_changed_boxes_reach_the_prepared_set(folder: Path, prepare: Prepare) -> None:
    """What an annotation file says anew is not kept from the last preparation."""
    prepare("vggss", folder, **LISTED)
    path = folder / "vggss.json"
    path.write_text(path.read_text().replace("0.25", "0.50", 1))
    assert prepare("vggss", folder, **LISTED).boxes(0).tolist()[0][0] == 0.5  # type: ignore[union-attr]  # annotated


def test_broken_media_are_quarantined_with_the_reason(
    folder: Path, tmp_path: Path, prepare: Prepare, read_csv: ReadCSV
) -> None:
    """Each unusable sample is listed with why; the manifest says n of N; too many stop the preparation."""
    (folder / "frames" / "s00.png").unlink()
    (folder / "audio" / "s04.flac").write_bytes(b"")
    soundfile.write(folder / "audio" / "s05.wav", np.full(16000, np.nan, np.float32), 16000, subtype="FLOAT")
    (folder / "audio" / "s05.flac").unlink()
    picture = folder / "frames" / "s06.png"
    picture.write_bytes(picture.read_bytes()[:60])
    data = prepare("vggss", folder, max_broken=0.5, **LISTED)
    found = reasons(read_csv(tmp_path / "out" / "quarantine.csv"))
    assert found.keys() == {"s00", "s04", "s05", "s06"}
    for name, word in {"s00": "no frame", "s04": "empty", "s05": "NaN", "s06": "cannot read the picture"}.items():
        assert word in found[name]
        assert name in found[name]
    assert len(data) == ROWS - 4
    assert (data.manifest.counts["test"], data.manifest.expected["test"]) == (1, 2)
    assert sum(data.manifest.expected.values()) == ROWS
    with pytest.raises(DataError, match=facts("4 12 max_broken 0.3")):
        prepare("vggss", folder, max_broken=0.3, **LISTED)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_sample_whose_boxes_all_vanish_is_not_one_where_nothing_sounds(
    folder: Path, tmp_path: Path, prepare: Prepare, read_csv: ReadCSV
) -> None:
    """Degenerate boxes quarantine a sample; an empty list keeps it as silent."""
    rows = json.loads((folder / "vggss.json").read_text())
    rows[2]["bbox"] = [[0.5, 0.5, 0.5, 0.9], [0.3, 0.3, -2.88e16, 0.9]]
    rows[3]["bbox"] = [[-0.2, 0.5, 1.3, -2.88e16], [-0.2, 0.5, 1.3, 0.75]]
    rows[4]["bbox"] = []
    (folder / "vggss.json").write_text(json.dumps(rows))
    data = prepare("vggss", folder, **LISTED)
    assert says(reasons(read_csv(tmp_path / "out" / "quarantine.csv"))["s02"], "2 boxes")
    np.testing.assert_array_equal(data.boxes(data.sample_ids.index("s03")), np.array([[0, 0.5, 1, 0.75]], np.float32))
    nothing = data.boxes(data.sample_ids.index("s04"))
    assert nothing is not None
    assert nothing.shape == (0, 4)


def test_cleaning_keeps_what_covers_a_pixel() -> None:
    """Clamped to the frame; NaN, infinite and swapped corners do not survive."""
    boxes = np.array(
        [[-1, 0, 0.5, 2], [0.5, 0.5, 0.501, 0.9], [0.9, 0, 0.1, 1], [np.nan, 0, 0.6, 1], [0, 0, 1, -np.inf]]
    )
    np.testing.assert_array_equal(clean_boxes(boxes, 100), np.array([[0, 0, 0.5, 1]], np.float32))


def test_a_mask_gives_its_bounding_box_and_sounds_add_up(
    tmp_path: Path,
    add_picture: Callable[[Path, int], None],
    add_sound: Callable[..., None],
    tones: Callable[[PreparedData, int], set[int]],
) -> None:
    """A mask alone, an empty mask, a mask that is a pickle; two sounds in one row, centered where the row says."""
    add_picture(tmp_path / "f.png", 90)
    for hertz in (300, 700):
        add_sound(tmp_path / f"{hertz}.wav", hertz)
    late = np.concatenate([np.zeros(32000), 0.5 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)])
    soundfile.write(tmp_path / "late.wav", late, 16000)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 30:60] = 255
    Image.fromarray(mask).save(tmp_path / "some.png")
    np.save(tmp_path / "none.npy", np.zeros((40, 60)))
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "evil.pkl").write_bytes(b"")
    (tmp_path / "evil.pkl").write_bytes(b"\x80\x04N.")

    def entry(name: str, mask: str, *sounds: str, time_s: float | None = None) -> Entry:
        files = tuple(tmp_path / f"{sound}.wav" for sound in sounds)
        return Entry(name, name, name, "test", "c", tmp_path / "f.png", files, mask=tmp_path / mask, time_s=time_s)

    index = Index(
        [
            entry("both", "some.png", "300", "700"),
            entry("silent", "none.npy", "late", time_s=2.5),
            entry("array", "evil.npy", "300"),
            entry("pickle", "evil.pkl", "300"),
        ]
    )
    config = IndexedConfig(root=str(tmp_path), image_size=120, duration_s=0.5, max_broken=0.5)
    prepare_index("x", lambda _: index, config, tmp_path / "out", 1)
    data = PreparedData.open(tmp_path / "out")
    np.testing.assert_allclose(data.boxes(0), [[0.5, 0.25, 1.0, 0.5]], atol=1e-6)  # type: ignore[arg-type]  # annotated
    expected = np.zeros((120, 120), bool)
    expected[30:60, 60:] = True
    np.testing.assert_array_equal(data.object_masks(np.array([0]))[0], expected)
    assert data.boxes(1).shape == (0, 4)  # type: ignore[union-attr]  # annotated
    assert tones(data, 0) == {300, 700}
    assert tones(data, 1) == {500}
    broken = (tmp_path / "out" / "quarantine.csv").read_text()
    assert says(broken, "array")
    assert "never a pickle" in broken


def test_a_row_listed_twice_and_an_empty_index_are_refused(tmp_path: Path) -> None:
    """Neither leaves a prepared set."""
    config = IndexedConfig(root="somewhere")
    with pytest.raises(DataError, match=facts("somewhere 2 'a'")):
        prepare_index("x", lambda _: Index([Entry("a", "a", "a", "train")] * 2), config, tmp_path, 1)
    with pytest.raises(DataError, match=facts("somewhere")):
        prepare_index("x", lambda _: Index([]), config, tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_look_tells_missing_from_broken_by_part(folder: Path, read_index: Callable[..., Index], workers: int) -> None:
    """Counts for every part, and nothing is written."""
    (folder / "frames" / "s00.png").unlink()
    (folder / "audio" / "s01.flac").write_bytes(b"")
    before = sorted(folder.rglob("*"))
    index = read_index("vggss", folder, validation_share=0.0, **LISTED)
    config = IndexedConfig(root=str(folder), image_size=32, duration_s=0.5, shard_rows=5)
    train, test = check_index("vggss", index, config, workers)
    assert train == PartState("train", 10, 0, 0, 10, "")
    assert test == PartState("test", 2, 1, 1, 0, test.example)
    assert says(test.example, "s00 frame")
    assert sorted(folder.rglob("*")) == before
