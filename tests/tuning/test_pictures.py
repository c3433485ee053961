"""Optuna's plots of a search, as files."""

from __future__ import annotations

from pathlib import Path

from torchvision.io import read_file
from torchvision.io.image import decode_png

from avsl.tuning.config import read_requests
from avsl.tuning.pictures import draw
from avsl.tuning.study import Study


def test_each_framework_with_different_scores_has_its_pictures(project: Path) -> None:
    """Of one that has a single finished trial there is nothing to see."""
    (request,) = read_requests(["tune=small", "framework=mean_teacher,pseudo_label", "tune.trials=3"])
    study = Study(project / "search", request, {}, {f: request.defaults(f) for f in request.tune.frameworks})
    defaults = [study.next() for _ in range(2)]
    proposed = study.next()
    assert proposed
    for k, trial in enumerate((*defaults, proposed), 1):
        assert trial
        study.complete(trial.number, 0.1 * k, 1.0)
    files = draw(study, request.tune.frameworks, project / "plots")
    wanted = [f"{proposed.framework}-{name}.png" for name in ("history", "importance", "parallel", "slice")]
    assert sorted(path.name for path in files) == wanted
    assert sorted(path.name for path in (project / "plots").iterdir()) == wanted
    for path in files:
        picture = decode_png(read_file(str(path)))
        assert picture.float().std() > 10  # not blank
