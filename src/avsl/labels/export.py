"""`avsl labels export`: a folder of tasks for an annotation tool."""

from __future__ import annotations

import html
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from avsl.config.compose import compose
from avsl.console import progress_bar
from avsl.data.annotation_files import as_boxes
from avsl.errors import DataError
from avsl.files import project_root, whole_file, write_text
from avsl.inference.predictor import Predictor
from avsl.labels.clips import ClipFolder
from avsl.labels.rounds import Rounds, Suggestion
from avsl.labels.tasks import Frame, file_name, read_frames, write_frames
from avsl.labels.tools import TOOLS
from avsl.labels.tools.task import Task
from avsl.registry.load import exported_model
from avsl.schema import lookup

# Annotators hear more of the sound than the model.
_SAMPLE_RATE = 44100


def export(
    overrides: Sequence[str], to: str, model: str | None = None, out: Path | None = None, labels: Path | None = None
) -> Path:
    """Write the suggested clips without annotations as tasks: frames, sounds, and the tool's files.

    Frames are upright and at full resolution; sounds lie around the frame and have the length of the model's input. A
    model's boxes are added for correction, except in the test part, which must not depend on a model.

    Args:
        overrides: changes to params.yaml, as ``data=folder``.
        to: one of `TOOLS`.
        model: folder or ``models:/`` address of the model whose boxes are added; None for no boxes.
        out: the task folder; by default ``outputs/folder/labels/TOOL-ROUND``. Files of finished tasks in it are
            removed.
        labels: folder of the rounds; by default ``labels`` in the project.

    Returns:
        The task folder.

    Raises:
        ConfigError: the tool is unknown, or a setting is wrong.
        DataError: nothing is left to annotate, or a clip cannot be decoded.
    """
    tool = lookup(to, TOOLS, "annotation tool")
    project = project_root()
    config = compose(overrides, project)
    folder = ClipFolder.open(config)
    rounds = Rounds(project / "labels" if labels is None else labels)
    todo = [row for row in rounds.chosen().values() if row.id in folder.clips and not folder.clips[row.id].annotated]
    if not todo:
        raise DataError(f"{rounds.folder}: nothing that is suggested waits for an annotation: run avsl labels suggest")
    out = config.root / config.data.name / "labels" / f"{to}-{rounds.last:02d}" if out is None else out
    frames = read_frames(rounds.folder)
    if model is None:
        tasks = _write_media(folder, todo, frames, out, None, "")
    else:
        with exported_model(model, config) as (path, source):
            tasks = _write_media(folder, todo, frames, out, Predictor.load(path), source)
    write_frames(rounds.folder, frames.values())
    steps = tool.write(out, tasks)
    write_text(out / "index.html", _page(tasks))
    write_text(out / "README.md", f"# {len(tasks)} frames to annotate\n\n" + "".join(f"- {step}\n" for step in steps))
    kept = {task.file for task in tasks}
    for frame in frames.values():
        if frame.file not in kept:
            for path in (out / "frames" / f"{frame.file}.jpg", out / "sounds" / f"{frame.file}.wav"):
                path.unlink(missing_ok=True)
    print(f"{len(tasks)} tasks; {out / 'README.md'} says how to annotate them, {out / 'index.html'} lets them be heard")
    print("next:", shlex.join(["avsl", "labels", "import", "EXPORTED_FILE", *overrides]))
    return out


def _write_media(
    folder: ClipFolder,
    todo: Sequence[Suggestion],
    frames: dict[str, Frame],
    out: Path,
    predictor: Predictor | None,
    source: str,
) -> list[Task]:
    """Write the frames and sounds; ``frames`` gets the new ones."""
    tasks: list[Task] = []
    with progress_bar("tasks", len(todo)) as bar:
        for row in todo:
            clip = folder.clips[row.id]
            picture, sound = folder.read_frame(clip), folder.read_sound(clip, _SAMPLE_RATE)
            height, width = picture.shape[:2]
            stem = frames[row.id].file if row.id in frames else file_name(row.id, (f.file for f in frames.values()))
            frames[row.id] = Frame(row.id, stem, width, height)
            boxes = as_boxes([])
            if predictor is not None and row.part != "test":
                heard = folder.read_sound(clip, predictor.sample_rate, predictor.duration_s)
                (found,) = predictor.predict([picture], [heard])
                if found.map.max() >= predictor.presence:
                    boxes = as_boxes([box[:4] for box in found.boxes]) * (width, height, width, height)
            task = Task(row.id, stem, width, height, np.round(boxes), source if len(boxes) else "")
            with whole_file(out / task.frame) as part:
                Image.fromarray(picture).save(part, "JPEG", quality=95)
            with whole_file(out / task.sound) as part:
                soundfile.write(part, sound, _SAMPLE_RATE, "PCM_16", format="WAV")
            tasks.append(task)
            bar.advance()
    return tasks


def _page(tasks: Sequence[Task]) -> str:
    """Write a page that shows each frame and plays its sound, for tools that cannot."""
    rows = [
        f'<figure><img src="{html.escape(task.frame)}" loading="lazy"><figcaption>{html.escape(task.id)}</figcaption>'
        f'<audio controls preload="none" src="{html.escape(task.sound)}"></audio></figure>\n'
        for task in tasks
    ]
    style = "<style>figure{display:inline-block;margin:8px}img{max-width:480px;display:block}</style>"
    return f'<!doctype html><meta charset="utf-8"><title>Frames and sounds</title>{style}\n{"".join(rows)}'
