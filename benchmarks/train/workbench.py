"""The project's own training step without Lightning's loop around it, on scenes that are generated here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from avsl.build import make_loader, make_reader
from avsl.config.compose import compose
from avsl.config.models import Config
from avsl.data.datasets.synthetic import SyntheticConfig, generate
from avsl.data.loading import TrainingRows
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import make_split
from avsl.data.transforms import make_views
from avsl.training.module import SemiModule
from avsl.types import SemiBatch, StepOutput

ROOT = Path(__file__).resolve().parents[2]


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of ``work``, of all threads: what else the machine does disturbs them little."""
    start = time.process_time()
    work()
    return time.process_time() - start


def configure(*overrides: str) -> Config:
    """params.yaml's configuration with some values changed."""
    return compose(overrides, ROOT)


def generated(root: Path, size: int, rows: int, duration_s: float = 1.0) -> PreparedData:
    """Scenes of the embedded benchmark, ``rows`` of them to train on."""
    few = dict.fromkeys(("n_small", "n_duet", "n_offscreen", "n_swap", "n_unheard"), 0)
    config = SyntheticConfig(image_size=size, duration_s=duration_s, n_train=rows, n_validation=1, n_test=1, **few)
    generate(config, root, 1)
    return PreparedData.open(root)


class Training:
    """One training's loader, framework and optimizer, as `avsl.training.loop` puts them together.

    Args:
        config: what and how.
        data: the prepared set.
        device: where it trains.
    """

    def __init__(self, config: Config, data: PreparedData, device: str = "cpu") -> None:
        self.config = config
        self.device = torch.device(device)
        split = make_split(data, config.split)
        rows = np.concatenate([data.rows_of(split.labeled), data.rows_of(split.unlabeled)])
        # So long a schedule that its rate stays at the peak.
        self.module = SemiModule(config, 10**6).to(self.device)
        reader = make_reader(config, self.module.modules(), data, rows)
        self.framework = self.module.framework
        self.loader = make_loader(config, reader, split, self.framework)
        optimizer = self.module.configure_optimizers()["optimizer"]
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.optimizer = optimizer
        self.module.train()

    def views(self, rows: TrainingRows) -> SemiBatch:
        """The step's augmented views."""
        rows = rows.to(self.device)
        return make_views(
            rows.labeled,
            rows.unlabeled,
            self.config.augment,
            n_strong=self.framework.n_views,
            weak=self.framework.needs_weak_view,
            generator=torch.Generator(self.device).manual_seed(rows.step),
        )

    def forward(self, batch: SemiBatch, step: int) -> StepOutput:
        """The framework's loss, in the precision that Lightning would give it."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.trainer.precision == "bf16-mixed"):
            return self.framework.training_step(batch, step)

    def backward(self, loss: Tensor) -> None:
        """Gradients of all that is trained."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own

    def update(self) -> None:
        """Clip, and the optimizer's step."""
        clip = self.config.trainer.gradient_clip
        if clip:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), clip, foreach=True)
        self.optimizer.step()

    def step(self, batch: SemiBatch, step: int) -> Tensor:
        """Train on a batch; its loss before."""
        loss = self.forward(batch, step).loss.total
        self.backward(loss)
        self.update()
        self.framework.after_step(step)
        return loss.detach()

    def whole_step(self, step: int) -> Tensor:
        """The same with reading and augmentation."""
        return self.step(self.views(self.loader.rows(step)), step)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
