"""Media files by id: what a folder holds, and what a name in a list means."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.messages import facts

from avsl.data.index import Entry
from avsl.data.listing import Media, add_mixtures, files_by_id
from avsl.errors import DataError


def touch(root: Path, *names: str) -> None:
    """Empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_mixture_keeps_each_frames_own_boxes(tmp_path: Path) -> None:
    """Two rows, both with both sounds; a pair with a clip that is learned from is left out."""
    one, other, learned = (
        Entry(
            *(name, name, name),
            part="test" if name in "ab" else "train",
            label=name,
            picture=Path(name),
            sounds=(Path(f"{name}.wav"),),
            boxes=np.eye(4)[:k],
        )
        for k, name in enumerate("abc", start=1)
    )
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("a,a,b,b\na,a,c,c\nc,c,c,c\n")
    mixed, left_out = add_mixtures([one, other, learned], pairs, "boxes.json", "test_duet")
    assert left_out == 4
    assert [row.sample_id for row in mixed] == ["a+b/0", "a+b/1"]
    assert [(row.picture, row.label, len(row.boxes if row.boxes is not None else ())) for row in mixed] == [
        (Path("a"), "a", 1),
        (Path("b"), "b", 2),
    ]
    assert {row.sounds for row in mixed} == {(Path("a.wav"), Path("b.wav"))}
    assert {row.part for row in mixed} == {"test_duet"}
    assert [row.meta for row in mixed] == [{"sounding": ["a", "b"]}] * 2
    with pytest.raises(DataError, match=facts(pairs, "row 2 'c' boxes.json")):
        add_mixtures([one, other], pairs, "boxes.json", "test_duet")


def test_unusable_folders_are_named(tmp_path: Path) -> None:
    """Missing, empty and ambiguous."""
    with pytest.raises(DataError, match=facts("none")):
        Media.read(tmp_path / "none")
    with pytest.raises(DataError, match=facts(tmp_path)):
        Media.read(tmp_path)
    touch(tmp_path, "a.jpg", "a.PNG")
    with pytest.raises(DataError, match=facts("'a.PNG' 'a.jpg'")):
        files_by_id(tmp_path, (".jpg", ".png"))


@pytest.mark.parametrize("name", ["12:30", "a=b", "-x", "caf\u00e9", "a.b", "it's 50 %"])
def test_any_name_is_an_id(tmp_path: Path, name: str) -> None:
    """Whatever the file system's spelling of its characters; a Mac's ``._`` files are none."""
    written = unicodedata.normalize("NFD", name)
    touch(
        tmp_path, f"frames/{written}.jpg", f"frames/._{written}.jpg", f"audio/{written}.m4a", f"audio/._{written}.m4a"
    )
    media = Media.read(tmp_path)
    assert media.names() == [name]
    entry = media.entry(name)
    assert entry.picture == tmp_path / "frames" / f"{written}.jpg"
    assert entry.sounds == (tmp_path / "audio" / f"{written}.m4a",)


def test_class_folders_of_videos(tmp_path: Path) -> None:
    """Ids and labels come from the folder, where the data set allows it; a hidden folder is none."""
    touch(tmp_path, "dog/one.mp4", "cat/one.MOV", ".cache/x.mp4", "notes.txt")
    media = Media.read(tmp_path, class_folders=True)
    assert [(row.sample_id, row.label) for row in media.pool(())] == [("cat/one", "cat"), ("dog/one", "dog")]
    assert media.find("one.mp4", "dog") == "dog/one"
    with pytest.raises(DataError, match="holds neither"):
        Media.read(tmp_path)


def test_a_stray_video_is_said(tmp_path: Path) -> None:
    """Frames and sounds are the data where there are any; empty folders are no reason to pass over videos."""
    touch(tmp_path, "holiday.mp4", "frames/a.jpg", "audio/a.wav")
    media = Media.read(tmp_path)
    assert media.names() == ["a"]
    (note,) = media.notes
    assert "'holiday'" in note
    (tmp_path / "frames" / "a.jpg").unlink()
    (tmp_path / "audio" / "a.wav").unlink()
    assert Media.read(tmp_path).names() == ["holiday"]


@pytest.mark.parametrize("name", ["s1", "s1.png", "s1.wav", "frames/s1.png", "frames\\s1.png", "C:\\data\\s1.mp4"])
def test_a_name_in_a_list_is_found(tmp_path: Path, name: str) -> None:
    """With a suffix, a folder or a Windows separator."""
    touch(tmp_path, "frames/s1.jpg", "audio/s1.wav")
    assert Media.read(tmp_path).find(name) == "s1"
    assert Media.read(tmp_path).find("s2.png") == "s2.png"
