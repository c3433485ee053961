"""Rounds of labeling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tests.fixtures.media import tone
from tests.fixtures.messages import facts, says

from avsl.config.compose import compose
from avsl.data.datasets import make_prepared
from avsl.data.prepared.reader import PreparedData
from avsl.errors import AvslError, DataError
from avsl.labels.clips import ClipFolder
from avsl.labels.suggest import suggest
from avsl.models import load_exported
from avsl.schema import ConfigError

Rows = Callable[[Path], list[dict[str, str]]]


def test_rounds_keep_clips_recordings_and_parts_apart(clips: Path, settings: list[str], read_rows: Rows) -> None:
    """No clip comes twice, of one recording at most one a round, and test clips are drawn once."""
    first = read_rows(suggest(settings, budget=5))
    test = Path("labels/test.csv").read_bytes()
    second = read_rows(suggest(settings, budget=5))
    assert Path("labels/test.csv").read_bytes() == test
    rounds = [first, second, read_rows(Path("labels/test.csv"))]
    ids = [row["id"] for rows in rounds for row in rows]
    assert len(ids) == len(set(ids)) == 13
    for rows in rounds:
        assert len({row["recording"] for row in rows}) == len(rows)
        assert {(row["id"].partition("_")[0], row["time_s"][:3]) for row in rows} == {
            (row["recording"], "0.5") for row in rows
        }
    assert Counter(row["part"] for rows in rounds for row in rows) == {"train": 7, "validation": 3, "test": 3}


def test_preparation_gives_annotated_clips_the_parts_of_the_round(
    clips: Path, settings: list[str], read_rows: Rows
) -> None:
    """The parts that a round states are those that ``prepare`` draws."""
    rows = [*read_rows(suggest(settings, budget=5)), *read_rows(Path("labels/test.csv"))]
    boxes = "".join(f"{row['id']},sound,0,0,1,1,{row['recording']}\n" for row in rows)
    (clips / "annotations.csv").write_text(f"file,class,x0,y0,x1,y1,recording\n{boxes}")
    data = compose([*settings, "data.folder.annotations=annotations.csv", "data.folder.image_size=32"]).data
    make_prepared("folder", data.settings, Path("prepared"), 1)
    prepared = PreparedData.open(Path("prepared"))
    part = dict(zip(prepared.sample_ids, prepared.parts, strict=True))
    assert {row["id"]: row["part"] for row in rows} == {row["id"]: part[row["id"]] for row in rows}


def test_the_same_seed_gives_the_same_round(clips: Path, settings: list[str], tmp_path: Path) -> None:
    """Another seed gives another one."""
    written = [
        suggest([*settings, f"seed={seed}"], budget=4, labels=tmp_path / str(k)).read_bytes()
        for k, seed in enumerate((0, 0, 1))
    ]
    assert written[0] == written[1] != written[2]


def test_clips_that_are_annotated_or_broken_are_not_suggested(
    clips: Path, settings: list[str], read_rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken one is named; what is left is suggested, and too little is said."""
    (clips / "annotations.csv").write_text("file,class,x0,y0,x1,y1\nvideoa_0_1,c,0,0,1,1\n")
    broken = clips / "videod_1_2.mp4"
    broken.unlink()
    broken.write_bytes(b"no video")
    seen: set[str] = set()
    for _ in range(3):
        rows = read_rows(suggest(settings, budget=9))
        assert len(rows) < 9
        seen |= {row["id"] for row in rows}
        if len(seen) == 12:
            break
    assert not {"videoa_0_1", "videod_1_2"} & seen
    assert str(broken) in caplog.text
    assert says(caplog.text, "9 clips")
    with pytest.raises(DataError, match=facts("training")):
        suggest(settings, budget=5)


def test_coverage_and_disagreement_ask_the_model(
    clips: Path, settings: list[str], read_rows: Rows, save_model: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    """Disagreement scores a clip by 1 − soft IoU of the two confidence maps; coverage does with one localizer."""
    pair = save_model(tmp_path / "pair", 2)
    path = suggest([*settings, "labels.disagreement.diversity=0"], 5, "disagreement", str(pair))
    rows = [row for row in read_rows(path) if row["part"] == "train"]
    scores = [float(row["score"]) for row in rows]
    assert len(set(scores)) == len(scores)
    assert scores == sorted(scores, reverse=True)
    model, _ = load_exported(pair)
    folder = ClipFolder.open(compose(settings))
    clip = folder.clips[rows[0]["id"]]
    frame, sound = folder.read_frame(clip), folder.read_sound(clip, 16000, 0.5)
    small = np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BILINEAR))
    shown, heard = torch.from_numpy(small.copy())[None], torch.from_numpy(sound)[None]
    members = [type(model)([member]).eval().predict(shown, heard) for member in model.members]
    expected = 1 - torch.minimum(*members).sum() / torch.maximum(*members).sum()
    assert scores[0] == pytest.approx(float(expected), abs=2e-4)
    one = save_model(tmp_path / "one", 1)
    covered = read_rows(suggest(settings, 5, "coverage", str(one)))
    assert {row["strategy"] for row in covered if row["part"] == "train"} == {"coverage"}
    with pytest.raises(ConfigError, match="two localizers"):
        suggest(settings, 2, "disagreement", str(one))


@pytest.mark.parametrize(
    ("changes", "strategy", "named"),
    [
        (["data=synthetic"], "random", "data=folder"),
        (["data.folder.root=s3://bucket/clips"], "random", "s3://bucket/clips"),
        (["data.folder.annotations=boxes.json"], "random", "boxes.json"),
        (["data.folder.test_share=0"], "random", "data.folder.test_share"),
        (["data.folder.validation_share=0"], "random", "data.folder.validation_share"),
        ([], "best", "did you mean|allowed are coverage"),
        ([], "coverage", "--model"),
        ([], "stratified", "folders"),
        (["labels.hybrid.explore=0.5"], "random", "--strategy hybrid"),
        (["labels.coverage.method=far"], "coverage", "labels.coverage.method"),
        (["labels.test_clip=5"], "random", "labels.test_clip'"),
    ],
)
def test_what_cannot_be_suggested_is_said_and_leaves_nothing(
    clips: Path, settings: list[str], changes: list[str], strategy: str, named: str
) -> None:
    """The error names the key; no file is written."""
    base = settings if changes != ["data=synthetic"] else []
    with pytest.raises(AvslError, match=named):
        suggest([*base, *changes], 4, strategy)
    assert not Path("labels").exists()


def test_parts_cannot_change_under_the_rounds(clips: Path, settings: list[str]) -> None:
    """Nor can the folder."""
    suggest(settings, budget=3)
    with pytest.raises(DataError, match=facts("parts.json data.folder.seed 4 7")):
        suggest([*settings, "data.folder.seed=7"], budget=3)
    for path in clips.glob("*_0_1.mp4"):
        path.unlink()
    with pytest.raises(DataError, match=facts("CLIPS")):
        suggest(settings, budget=3)


def test_a_model_that_the_strategy_would_not_ask_is_refused(clips: Path, settings: list[str]) -> None:
    """Nobody is to believe that it was."""
    with pytest.raises(ConfigError, match=r"--model some/model.*'random'"):
        suggest(settings, 4, "random", "some/model")


def test_pictures_with_sounds_have_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_rows: Rows) -> None:
    """A folder of frames and sounds is suggested from as well."""
    monkeypatch.chdir(tmp_path)
    for folder in ("frames", "audio"):
        (tmp_path / "CLIPS" / folder).mkdir(parents=True)
    for name in "abcdefghij":
        Image.new("RGB", (40, 30), (90, 0, 0)).save(tmp_path / f"CLIPS/frames/video{name}.png")
        soundfile.write(tmp_path / f"CLIPS/audio/video{name}.wav", tone(1, 16000), 16000)
    shares = ["data.folder.test_share=0.3", "data.folder.validation_share=0.3", "data.folder.seed=4"]
    rows = read_rows(suggest(["data=folder", "data.folder.root=CLIPS", *shares], 4))
    assert len(rows) == 4
    assert {row["time_s"] for row in rows} == {""}


@pytest.mark.parametrize("content", ["", "id,recording\n", "\0"])
def test_a_round_that_is_none_is_named(content: str, clips: Path, settings: list[str]) -> None:
    """By its file."""
    suggest(settings, budget=3).write_text(content)
    with pytest.raises(DataError, match=r"round-01\.csv"):
        suggest(settings, budget=3)
