"""How far averaged networks are from the networks that they average, during a training.

    python -m benchmarks.study.averages [--seed 0] [FRAMEWORK ...]

Run in a project in which `dvc repro` has made the prepared set, the split and the start. Trains each framework once and
scores, at the end of every epoch, what would be exported and the students behind it on validation, each at its own
cross-fitted threshold. Writes nothing but averages.md beside this file.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from avsl.build import make_loader, make_reader, steps_per_epoch
from avsl.config.compose import compose
from avsl.data.loading import RowLoader
from avsl.data.transforms import plain_view
from avsl.files import write_text
from avsl.frameworks.branch import Branch
from avsl.metrics import ThresholdSweep
from avsl.models import LocalizerEnsemble
from avsl.paths import Layout
from avsl.stages.prepare import load_data
from avsl.training.module import SemiModule

RATIO = 0.03


class StudentScores(Callback):
    """Scores the students beside the exported networks, on the same validation samples."""

    def __init__(self, loader: RowLoader) -> None:
        self._loader = loader
        self.scores: list[tuple[float, float]] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Score both; the students' mode and statistics are unchanged afterwards."""
        assert isinstance(pl_module, SemiModule)
        students = [part.model for part in pl_module.modules() if isinstance(part, Branch)]
        training = [student.training for student in students]
        students_alone = LocalizerEnsemble(students).eval()
        scores = (self._score(pl_module.ensemble()), self._score(students_alone))
        for student, mode in zip(students, training, strict=True):
            student.train(mode)
        self.scores.append(scores)

    @torch.no_grad()
    def _score(self, ensemble: LocalizerEnsemble) -> float:
        sweep = ThresholdSweep()
        for rows in self._loader:
            assert rows.mask is not None
            sweep.update(ensemble(plain_view(rows)), rows.mask, rows.recording)
        return 100 * float(sweep.cross_fitted_rate())


def train(framework: str, seed: int) -> list[tuple[float, float]]:
    """Train as the stage does, without a record; returns the exported and the students' CIoU after each epoch."""
    config = compose([f"framework={framework}", f"split.label_ratio={RATIO}", f"seed={seed}"])
    layout = Layout.of(config)
    data, split = load_data(layout)
    module = SemiModule(config, steps_per_epoch(config, split) * config.trainer.epochs, layout.start)
    rows = data.rows_of([*split.labeled, *split.unlabeled, *split.validation])
    reader = make_reader(config, module.modules(), data, rows)
    scores = StudentScores(RowLoader(reader, data.rows_of(split.validation), config.evaluate.batch_size))
    with tempfile.TemporaryDirectory() as folder:
        lightning.Trainer(
            accelerator="cpu",
            precision=config.trainer.precision,
            max_epochs=config.trainer.epochs,
            gradient_clip_val=config.trainer.gradient_clip or None,
            callbacks=[scores],
            logger=False,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        ).fit(module, make_loader(config, reader, split, module.framework))
    return scores.scores


def main() -> None:
    """Train the frameworks and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frameworks", nargs="*", default=["mean_teacher", "dmt", "supervised"])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    lines = [
        "# Averages",
        "",
        f"`python -m benchmarks.study.averages --seed {asked.seed} {' '.join(asked.frameworks)}`: validation CIoU@0.5",
        f"in per cent at {100 * RATIO:g} % labels after each epoch, what is exported / the students behind it.",
        "",
    ]
    for k, framework in enumerate(asked.frameworks):
        scores = train(framework, asked.seed)
        if not k:
            lines += [
                f"| framework | {' | '.join(f'epoch {epoch + 1}' for epoch in range(len(scores)))} |",
                f"| --- |{' --- |' * len(scores)}",
            ]
        lines.append(f"| {framework} | {' | '.join(f'{ours:.1f} / {alone:.1f}' for ours, alone in scores)} |")
        print(lines[-1], flush=True)
    write_text(Path(__file__).with_name("averages.md"), "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
