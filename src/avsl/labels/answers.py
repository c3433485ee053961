"""`avsl labels import`: turns annotators' answers into the annotation file that ``data=folder`` reads."""

from __future__ import annotations

import logging
import shlex
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from avsl.config.compose import compose
from avsl.console import print_table
from avsl.data.annotation_files import Annotation, as_boxes
from avsl.errors import DataError
from avsl.files import project_root
from avsl.labels.agreement import MERGE_RULES, MergeRule, agreement, merge
from avsl.labels.clips import ClipFolder
from avsl.labels.rounds import Rounds, read_rows, write_table
from avsl.labels.tasks import Frame, read_frames
from avsl.labels.tools import TOOLS
from avsl.labels.tools.task import SOUND, Answer
from avsl.schema import lookup

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

_ANSWERS = "answers.csv"
_COLUMNS = ("id", "annotator", "x0", "y0", "x1", "y1")
# Tools round; a box that exceeds its frame by less than this is clipped.
_ROUNDING_PX = 1.0
_MOST_BYTES = 2**30

# By clip and annotator, (k, 4) boxes in pixels; k = 0 where nothing in view sounds.
_Answers = dict[str, dict[str, "NDArray[np.float64]"]]


def import_answers(
    overrides: Sequence[str],
    files: Sequence[Path],
    rule: str = "consensus",
    annotator: str = "annotator",
    labels: Path | None = None,
) -> Path:
    """Read what a tool exported, merge annotators, and write the annotation file.

    The answers of all annotators are kept in ``labels/answers.csv`` and merged. A file that is imported again replaces
    the answers of its annotator. Clips with boxes from other sources keep them.

    Args:
        overrides: changes to params.yaml, as ``data=folder``.
        files: exported by one of `TOOLS`, also within a zip file; recognized by their content.
        rule: how several annotators are merged, see `agreement.merge`.
        annotator: name of the annotator for files without one.
        labels: folder of the rounds; by default ``labels`` in the project.

    Returns:
        The annotation file.

    Raises:
        ConfigError: the rule is unknown, or a setting is wrong.
        DataError: a file is of no known format, or an answer cannot be used; then nothing is written.
    """
    merge_rule: MergeRule = lookup(rule, {name: name for name in MERGE_RULES}, "rule")
    project = project_root()
    config = compose(overrides, project)
    folder = ClipFolder.open(config)
    labels = project / "labels" if labels is None else labels
    frames = read_frames(labels)
    if not frames:
        raise DataError(f"{labels}: there are no tasks: run avsl labels export first")
    found: list[tuple[Path, Answer]] = []
    for path in files:
        found += [(path, answer) for answer in _read(path)]
    new, unanswered = _check(found, frames, annotator)
    answers = _read_answers(labels)
    for name, by in new.items():
        answers.setdefault(name, {}).update(by)
    before = folder.annotated()
    merged = {name: merge([by[who] for who in sorted(by)], merge_rule) for name, by in answers.items() if name in new}
    after = _merge_into(before, merged, folder, frames, Rounds(labels))
    _write_answers(labels, answers)
    _write_annotations(folder, after)
    _report(new, unanswered, merged, answers, frames, before, after)
    left = [name for name in Rounds(labels).chosen() if name not in after]
    if left:
        log.info("%d suggested clips are not annotated yet", len(left))
        print("next:", shlex.join(["avsl", "labels", "export", *overrides, "--to", "label-studio"]))
    else:
        # Where the settings do not name the file, preparation would not read it.
        stated = getattr(config.data.settings, "annotations", "")
        named = [] if stated else [f"data.folder.annotations={folder.settings.annotations}"]
        print("next:", shlex.join(["avsl", "run", *overrides, *named, "framework=dmt", "split.label_ratio=1.0"]))
    return folder.annotations


def _read(path: Path) -> list[Answer]:
    """Read the answers of a file of any known format."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with _unpacked(path) as inner:
        for tool in TOOLS.values():
            if tool.recognizes(inner):
                return tool.read(inner)
    raise DataError(f"{path}: not an export that is known; known are {', '.join(TOOLS)}")


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """Yield the path of the file, or of the one JSON or XML file in a zip, unpacked."""
    if not zipfile.is_zipfile(path):
        yield path
        return
    with zipfile.ZipFile(path) as archive, TemporaryDirectory() as folder:
        members = [one for one in archive.infolist() if one.filename.lower().endswith((".json", ".xml"))]
        if len(members) != 1:
            raise DataError(f"{path}: holds {len(members)} JSON or XML files, not one: unpack it and name the file")
        if members[0].file_size > _MOST_BYTES:
            raise DataError(f"{path}: '{members[0].filename}' takes {members[0].file_size} bytes unpacked")
        inner = Path(folder) / PurePosixPath(members[0].filename).name
        inner.write_bytes(archive.read(members[0]))
        yield inner


def _check(
    found: Sequence[tuple[Path, Answer]], frames: Mapping[str, Frame], annotator: str
) -> tuple[_Answers, set[str]]:
    """Return the answers by clip and annotator, and clips without an answer; an error names all faults."""
    by_file = {frame.file: frame for frame in frames.values()}
    answers: _Answers = {}
    unanswered: set[str] = set()
    problems: list[dict[str, str]] = []
    for path, answer in found:
        frame = frames.get(answer.frame) or by_file.get(PurePosixPath(answer.frame.replace("\\", "/")).stem)
        who = answer.annotator or annotator
        problem = "no such task was exported" if frame is None else answer.problem or _problem(answer, frame)
        if frame is not None and not problem:
            if not answer.boxes and not answer.silent:
                unanswered.add(frame.id)
                continue
            if who in answers.get(frame.id, {}):
                problem = f"'{who}' answered twice"
            else:
                answers.setdefault(frame.id, {})[who] = _clean(answer, frame)
        if problem:
            problems.append({"file": str(path), "frame": answer.frame, "annotator": who, "problem": problem})
    if problems:
        print_table(problems)
        first = problems[0]
        raise DataError(
            f"{first['file']}: {len(problems)} of {len(found)} answers cannot be used and nothing was imported; the "
            f"first, of '{first['frame']}': {first['problem']}"
        )
    return answers, unanswered - answers.keys()


def _problem(answer: Answer, frame: Frame) -> str:
    if answer.size is not None and answer.size != (frame.width, frame.height):
        return f"its frame has {answer.size[0]} x {answer.size[1]} pixels, not {frame.width} x {frame.height}"
    if answer.boxes and answer.silent:
        return "it has boxes and says that nothing in view sounds"
    boxes = as_boxes(answer.boxes)
    numbers = "[" + ", ".join("{:g}" for _ in range(4)) + "]"
    for box in boxes:
        shown = numbers.format(*box)
        if not np.isfinite(box).all():
            return f"the box {shown} is no box"
        if (box < -_ROUNDING_PX).any() or (box > np.array([frame.width, frame.height] * 2) + _ROUNDING_PX).any():
            return f"the box {shown} leaves the frame of {frame.width} x {frame.height} pixels"
        if (box[2:] - box[:2] < 1).any():
            return f"the box {shown} covers less than a pixel"
    return ""


def _clean(answer: Answer, frame: Frame) -> NDArray[np.float64]:
    """Return the boxes clipped to the frame, without duplicates."""
    boxes = np.clip(as_boxes(answer.boxes), 0, [frame.width, frame.height] * 2)
    kept: list[NDArray[np.float64]] = []
    for box in boxes:
        if any(np.abs(box - other).max() < _ROUNDING_PX / 2 for other in kept):
            log.warning("%s: the same box is there twice; one is kept", answer.frame)
        else:
            kept.append(box)
    return as_boxes([box.tolist() for box in kept])


def _read_answers(labels: Path) -> _Answers:
    path = labels / _ANSWERS
    drawn: dict[str, dict[str, list[list[float]]]] = {}
    for name, who, *numbers in read_rows(path, _COLUMNS):
        boxes = drawn.setdefault(name, {}).setdefault(who, [])
        try:
            boxes += [[float(number) for number in numbers]] if any(numbers) else []
        except ValueError as error:
            raise DataError(f"{path}: '{name}': {error}") from None
    return {name: {who: as_boxes(boxes) for who, boxes in by.items()} for name, by in drawn.items()}


def _write_answers(labels: Path, answers: _Answers) -> None:
    rows: list[Sequence[object]] = []
    for name in sorted(answers):
        for who in sorted(answers[name]):
            rows += [(name, who, *map(_number, box)) for box in answers[name][who].tolist() or [[]]]
    write_table(labels / _ANSWERS, _COLUMNS, ((*row, *[""] * (len(_COLUMNS) - len(row))) for row in rows))


def _number(value: float) -> str:
    return f"{value:.9g}"


def _merge_into(
    before: Mapping[str, Annotation],
    merged: Mapping[str, NDArray[np.float64] | None],
    folder: ClipFolder,
    frames: Mapping[str, Frame],
    rounds: Rounds,
) -> dict[str, Annotation]:
    """Merge answers into the annotations, in the units of the file; clips without agreement are left out."""
    after = dict(before)
    recordings = {name: row.recording for name, row in rounds.chosen().items()}
    for name, boxes in merged.items():
        if boxes is None:
            after.pop(name, None)
            continue
        scale = 1.0 if folder.settings.units == "pixels" else np.array([frames[name].width, frames[name].height] * 2)
        known = after.get(name)
        clip = folder.clips.get(name)
        label = known.label if known else (clip.label if clip else "") or SOUND
        recording = (known.recording if known else "") or recordings.get(name, "") or (clip.source_id if clip else "")
        after[name] = Annotation(label, boxes / scale, recording)
    return after


def _write_annotations(folder: ClipFolder, annotations: Mapping[str, Annotation]) -> None:
    settings = folder.settings
    corners = ("x0", "y0", "x1", "y1") if settings.boxes == "xyxy" else ("x", "y", "width", "height")
    rows: list[Sequence[object]] = []
    for name, known in annotations.items():
        boxes = known.boxes.copy()
        if settings.boxes == "xywh":
            boxes[:, 2:] -= boxes[:, :2]
        rows += [
            (name, known.label, *(map(_number, box) if box else [""] * 4), known.recording)
            for box in boxes.tolist() or [[]]
        ]
    write_table(folder.annotations, ("file", "class", *corners, "recording"), rows)


def _report(
    new: _Answers,
    unanswered: Iterable[str],
    merged: Mapping[str, NDArray[np.float64] | None],
    answers: _Answers,
    frames: Mapping[str, Frame],
    before: Mapping[str, Annotation],
    after: Mapping[str, Annotation],
) -> None:
    """Log the answers, the annotators' agreement and the changes of the annotation file."""
    disputed = sorted(name for name, boxes in merged.items() if boxes is None)
    changes = Counter(_change(before.get(name), after.get(name)) for name in merged)
    print_table(
        [
            {
                "answered": str(len(new)),
                "with boxes": str(sum(boxes is not None and len(boxes) > 0 for boxes in merged.values())),
                "nothing in view sounds": str(sum(boxes is not None and not len(boxes) for boxes in merged.values())),
                "no agreement": str(len(disputed)),
                "not answered": str(len(set(unanswered))),
                **{change: str(changes[change]) for change in ("added", "changed", "unchanged", "removed")},
            }
        ]
    )
    several = {name: list(answers[name].values()) for name in new if len(answers[name]) > 1}
    if several:
        agreed = {name: agreement(by, frames[name].width, frames[name].height) for name, by in several.items()}
        worst = min(agreed, key=lambda name: agreed[name])
        print(
            f"{len(several)} clips have several annotators: mean IoU {fmean(agreed.values()):.2f}, "
            f"lowest {agreed[worst]:.2f} ('{worst}')"
        )
    for name in disputed:
        log.warning("%s: its annotators do not agree, so it has no boxes and is exported again", name)


def _change(was: Annotation | None, now: Annotation | None) -> str:
    if was is None:
        return "added" if now is not None else "no agreement"
    if now is None:
        return "removed"
    same = was.boxes.shape == now.boxes.shape and np.allclose(was.boxes, now.boxes, atol=1e-6)
    return "unchanged" if same else "changed"
