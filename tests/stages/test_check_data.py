"""The look at a data set before it is prepared, by its command."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from tests.fixtures.messages import says

from avsl.cli import main
from avsl.storage import upload

ROWS = 4
CUT = ["data.vggss.test_share=0.5", "data.vggss.validation_share=0.5", "data.vggss.seed=11"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four annotated rows in a folder whose name needs quoting; with ``CUT``: validation, test, test, train."""
    root = tmp_path / "it's = a, folder"
    (root / "frames").mkdir(parents=True)
    (root / "audio").mkdir()
    for k in range(ROWS):
        Image.fromarray(np.full((20, 20, 3), 60, np.uint8)).save(root / "frames" / f"s{k}.png")
        soundfile.write(root / "audio" / f"s{k}.wav", np.sin(np.arange(8000) / 10), 16000)
    rows = [{"file": f"s{k}", "class": "c", "bbox": [[0, 0, 1, 1]]} for k in range(ROWS)]
    (root / "vggss.json").write_text(json.dumps(rows))
    (root / "list.txt").write_text("s0\nother\n")
    return root


def _cells(shown: str, part: str) -> list[str]:
    """The counts of a part: listed, usable, with boxes, missing, broken."""
    (line,) = [line for line in shown.splitlines() if line.startswith(f"{part} ")]
    return re.split(r"\s{2,}", line)[1:6]


def test_everything_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each part and exit code 0; the folder stays as it was."""
    before = sorted(folder.rglob("*"))
    assert main(["data", "check", "vggss", str(folder), *CUT]) == 0
    shown = capsys.readouterr().out
    assert _cells(shown, "test") == ["2", "2 of 2", "2", "0", "0"]
    assert says(shown, "1 1 boxes")
    assert sorted(folder.rglob("*")) == before


def test_a_folder_on_s3(folder: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is mirrored, only what changed travels again, and looked at like a folder here; an empty one is an error."""
    root = f"s3://{bucket}/sets/vggss"
    words = ["data", "check", "vggss", root, *CUT, f"root={tmp_path / 'o'}"]
    assert main(words) == 2
    assert says(capsys.readouterr().err, root)
    upload(folder, root)
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert _cells(shown, "test") == ["2", "2 of 2", "2", "0", "0"]
    assert root in shown.replace("\n", "")
    (folder / "frames" / "s1.png").write_bytes(b"no picture")
    upload(folder, root)
    assert main(words) == 1
    assert "1 of 2" in capsys.readouterr().out


def test_missing_and_broken_and_leaking(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is counted and makes the exit code 1."""
    words = ["data", "check", "vggss", str(folder), *CUT]
    for name in ("other.png", "other.wav"):
        place = folder / ("frames" if name.endswith("png") else "audio")
        (place / name).write_bytes((place / f"s0{Path(name).suffix}").read_bytes())
    assert main([*words, "data.vggss.train_list=list.txt", "data.vggss.leak=drop"]) == 0
    capsys.readouterr()
    assert main([*words, "data.vggss.train_list=list.txt"]) == 1
    assert says(capsys.readouterr().out, "leak 1")
    (folder / "frames" / "s1.png").unlink()
    (folder / "audio" / "s2.wav").write_bytes(b"")
    assert main(words) == 1
    assert _cells(capsys.readouterr().out, "test") == ["2", "0 of 2", "0", "1", "1"]


@pytest.mark.parametrize(
    ("boxes", "settings", "code", "said"),
    [
        (0, [], 0, "boxes framework=self_supervised"),
        (2, [*CUT[:1], "data.folder.seed=11"], 1, "boxes validation"),
        (4, ["data.vggss.test_share=1.0"], 1, "usable training"),
        (4, CUT, 0, "1 of 1 boxes split.label_ratio"),
    ],
)
def test_what_can_be_trained_is_said(
    folder: Path, boxes: int, settings: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ratio that the boxes allow; exit code 1 where nothing can be trained."""
    rows = json.loads((folder / "vggss.json").read_text())[:boxes]
    (folder / "vggss.json").write_text(json.dumps(rows))
    words = [word.replace("vggss", "folder") for word in settings]
    annotations = ["data.folder.annotations=vggss.json"] if boxes else []
    assert main(["data", "check", "folder", str(folder), *annotations, *words]) == code
    shown = " ".join(capsys.readouterr().out.split())
    assert says(shown, said)
    assert says(shown, "4 recording")


def test_what_cannot_be_looked_at_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No such data set, one that is generated, no such folder, no such file: exit code 2."""
    for words, message in (
        (["synthetic", str(folder)], "'synthetic' avsbench flickr"),
        (["vggss", "/no/such/folder"], "/no/such/folder"),
        (["vggss", str(folder), "data.vggss.test_list=x.csv"], "x.csv"),
    ):
        assert main(["data", "check", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert says(line, "avsl:", message)


def test_a_folder_that_waits_for_labels_names_the_next_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the annotation file that an import will write is not there yet; any other missing one is an error."""
    words = ["data", "check", "folder", str(folder)]
    assert main([*words, "data.folder.annotations=annotations.csv"]) == 0
    (command,) = re.findall(r"^next: (.*)$", capsys.readouterr().out, re.M)
    assert shlex.split(command)[:4] == ["avsl", "labels", "suggest", "data=folder"]
    assert main([*words, "data.folder.annotations=boxes.csv"]) == 2
    assert says(capsys.readouterr().err, "boxes.csv")
