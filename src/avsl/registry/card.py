"""The model card: what a registered version was made from, how good it is, where it ends and how it is called."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from avsl.data.splits import Split
from avsl.models.export import read_description
from avsl.records import EvaluationRecord, load_evaluated
from avsl.statistics import bootstrap_interval

# Of the AUC, as avsl.functional.localization.auc has them.
_THRESHOLDS = 0.05 * np.arange(21)
_NEGATIVES = {"boxed_silence": "silence", "boxed_noise": "noise", "boxed_offscreen": "off-screen sounds"}
_BASELINES = {"whole_image": "whole image", "centered_disc": "centered disc"}


def model_card(name: str, trained: Path, evaluation: Path, split: Split, evidence: str) -> str:
    """Describe a trained and evaluated model in Markdown, short enough for MLflow's 5,000 characters.

    Args:
        name: of the registered model.
        trained: what its training left.
        evaluation: what its evaluation left.
        split: that it was trained on.
        evidence: why it was chosen, a sentence.

    Raises:
        StaleError: the evaluation is of another model.
        DataError: a record is missing or cannot be read.
    """
    how, scores = load_evaluated(trained, evaluation)
    config = yaml.safe_load((trained / "config.yaml").read_text())
    exported = read_description(trained / "model")
    objective, data = how.objective, config["data"]["name"]
    labeled, clips = len(split.labeled), len(split.labeled) + len(split.unlabeled)
    sections = [
        f"# {how.framework} with {objective} on {data}, {100 * split.label_ratio:g} % labels",
        "Says which pixels of a video frame make the sound that is heard with it.",
        _table(
            ("made from", ""),
            [
                ("data", f"{data}, content `{split.data_hash[:12]}`, split `{split.content_hash[:12]}`"),
                (
                    "boxes used",
                    f"{labeled} of {clips} training clips, and {len(split.validation)} validation clips, which chose "
                    "the threshold and the champion",
                ),
                ("method", f"framework {how.framework}, objective {objective}, seed {how.seed}"),
                ("MLflow run", f"`{how.run_id}`"),
                ("threshold", f"{exported.threshold:.4g}, the same for every clip"),
                ("hears", f"{exported.duration_s:g} s at {exported.sample_rate} Hz"),
                ("sees", f"{exported.image_size} x {exported.image_size} px, resized from any size"),
            ],
        ),
        "## Scores",
        _table(("", "CIoU@0.5 (%)", "AUC (%)", "clips"), _scores(scores, evaluation / "per_sample.csv")),
        "At the fixed threshold unless it says otherwise; [95 % interval over test recordings, bootstrap], of this one "
        "training. What shuffled sounds keep, the model sees without listening.",
        "## Why this one",
        f"{evidence}.",
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(scores, data, exported.duration_s)),
        "## Calling it",
        _CALLING.format(name=name),
    ]
    return "\n\n".join(sections) + "\n"


_CALLING = """\
A row has a `frame` (base64 of a PNG or JPEG, or nested 0..255) and an `audio` (base64 of a wav, flac or ogg, or mono \
samples at the model's rate); the answer has its `map`, `boxes` and `threshold`. The parameter `map_size` is `grid` \
(as the network has it, the default) or `frame` (a map as large as its frame: far larger and slower to answer).

```
mlflow.pyfunc.load_model("models:/{name}@champion").predict([{{"frame": frame, "audio": audio}}])   # Python
mlflow models serve -m "models:/{name}@champion" --env-manager local --port 5001
curl localhost:5001/invocations -H 'Content-Type: application/json' \\
  -d '{{"dataframe_records": [{{"frame": "iVBOR...", "audio": "UklGR..."}}]}}'
avsl localize VIDEO_OR_FOLDER --model "models:/{name}@champion"
```"""


def _scores(found: EvaluationRecord, per_sample: Path) -> Iterator[tuple[str, str, str, str]]:
    def pair(scores: Mapping[str, float], suffix: str = "") -> tuple[str, str]:
        return _percent(scores[f"ciou{suffix}"]), _percent(scores[f"auc{suffix}"])

    yield "validation", *pair(found.validation.scores), str(found.validation.n)
    for part, test in found.tests.items():
        if test.n:
            ciou, recordings = _per_clip(per_sample, part)
            # The AUC is a mean too: of what each clip adds to its curve.
            areas = np.trapezoid((ciou[:, None] >= _THRESHOLDS).astype(float), _THRESHOLDS, axis=1)
            what = part.replace("test_", "test, ")
            hits = _percent(test.scores["ciou"], bootstrap_interval(ciou >= 0.5, recordings))
            yield what, hits, _percent(test.scores["auc"], bootstrap_interval(areas, recordings)), test.coverage
            if "ciou_shuffled" in test.scores:
                yield f"{what}, sounds shuffled", _percent(test.scores["ciou_shuffled"]), "", str(test.n)
    count = str(found.test.n)
    if found.test.n:
        yield "test, median threshold", *pair(found.test.scores, "_median"), count
    for name, scores in found.baselines.items():
        if name in _BASELINES:
            yield f"{_BASELINES[name]}, no model", *pair(scores), count
        else:
            yield "perfect ranking, median threshold", *pair(scores, "_median"), count


def _limits(found: EvaluationRecord, data: str, duration_s: float) -> Iterator[str]:
    for caveat in found.caveats:
        yield f"{caveat[0].upper()}{caveat[1:]}."
    if data == "synthetic":
        yield "It has seen drawn shapes and made-up sounds; of photographs and real sounds it knows nothing."
    else:
        yield f"Scores are of {data}; on other material measure again, and choose the threshold again."
    yield f"Of a sound longer than {duration_s:g} s only the center is heard; a shorter one is repeated."
    for part, test in found.tests.items():
        negatives = {what: test.scores[key] for key, what in _NEGATIVES.items() if key in test.scores}
        if negatives:
            shares = ", ".join(f"{_percent(share)} % with {what}" for what, share in negatives.items())
            yield f"{part}: of frames that are heard with nothing in view, a region is given to {shares}."
        if "false_positive_rate" in test.scores:
            rate = _percent(test.scores["false_positive_rate"])
            what = part.replace("test_", "")
            yield f"{what}: no source in view, yet {rate} % of {test.n_silent} clips get a region."
    yield "Maps are as coarse as the network's grid; a box's edges are not sharper than its cells."


def _per_clip(path: Path, part: str) -> tuple[NDArray[np.float64], list[str]]:
    """The cIoU and the recording of each clip of a part that has a source in view."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == part and row["ciou"]]
    return np.array([float(row["ciou"]) for row in rows]), [row["recording"] for row in rows]


def _percent(value: float, interval: tuple[float, float] | None = None) -> str:
    text = f"{100 * value:.1f}"
    return text if interval is None else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]] | list[tuple[str, str]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
