"""Every objective in two processes that train together: the loss and the gradient of one with all of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from avsl.distributed import follow_first, gather
from avsl.frameworks.branch import Branch
from avsl.frameworks.xpl import XPL, XPLConfig
from avsl.models import Localizer, LocalizerConfig
from avsl.objectives import OBJECTIVES
from avsl.types import AVBatch

ROWS, PROCESSES = 6, 2
LATE = 10**6  # a step after any warm-up


class Loss(nn.Module):
    """A branch whose forward pass ends with its objective's loss.

    Its localizer is in evaluation mode: batch-norm statistics, which each process takes from its own rows, are not what
    is compared here.
    """

    def __init__(self, name: str, tiny: LocalizerConfig) -> None:
        super().__init__()
        torch.manual_seed(0)
        build, config = OBJECTIVES[name]
        settings = {"dim": tiny.dim, "hidden": 16, "bottleneck": 8} if name == "sspl" else {}
        objective = build(config.read(settings, f"objective.{name}"))
        model = Localizer(tiny.model_copy(update={"heads": objective.needs.heads})).eval()
        self.branch = Branch(model, objective)
        for parameter in self.branch.calibration():
            parameter.requires_grad_(False)

    def forward(self, views: Sequence[AVBatch]) -> Tensor:
        """The loss on as many of the views as the objective asks for."""
        outputs = self.branch(views[: self.branch.needs.views])
        return self.branch.contrastive(outputs, LATE).total


def _rows(view: AVBatch, part: slice) -> AVBatch:
    features = {key: value[part] for key, value in view.features.items()}
    return replace(
        view, frame=view.frame[part], features=features, index=view.index[part], geometry=view.geometry[part]
    )


def _found(loss: nn.Module, views: Sequence[AVBatch]) -> dict[str, Tensor]:
    total = loss(views)
    total.backward()
    named = {name.removeprefix("module."): p.grad for name, p in loss.named_parameters()}
    return {"loss": total.detach()} | {name: gradient for name, gradient in named.items() if gradient is not None}


def _labeled(tiny: LocalizerConfig, views: Sequence[AVBatch]) -> dict[str, Tensor]:
    """What XPL knows of all rows once it has labeled two views of those that a process sees."""

    def student(k: int) -> Branch:
        torch.manual_seed(k)
        build, config = OBJECTIVES["ezvsl"]
        return Branch(Localizer(tiny), build(config()))

    framework = XPL(student, XPLConfig())
    for view in views:
        framework.label(view)
    labels = framework.labels.read(np.arange(ROWS), (8, 8))
    return {"labels": torch.from_numpy(labels), "reliability": torch.from_numpy(framework.labels.reliability)}


def _train(rank: int, folder: str, tiny: Mapping[str, Any], views: Sequence[AVBatch]) -> None:
    """One of the processes: each objective on its share of the rows, as Lightning has it trained."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    size = ROWS // PROCESSES
    own = [_rows(view, slice(rank * size, (rank + 1) * size)) for view in views]
    described = LocalizerConfig.read(tiny, "model")
    found: dict[str, Any] = {
        name: _found(DistributedDataParallel(Loss(name, described)), own) for name in sorted(OBJECTIVES)
    }
    found["xpl"] = _labeled(described, own)
    mine = torch.full((2,), float(rank))
    found["gather"] = gather(mine)
    follow_first([mine])
    found["first"] = mine
    torch.save(found, Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def views(make_view: Any) -> list[AVBatch]:
    """Two views of six rows."""
    return [make_view(ROWS, seed) for seed in (0, 1)]


@pytest.fixture(scope="module")
def together(
    tiny: LocalizerConfig, views: list[AVBatch], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What two processes found, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    spawn(_train, (str(folder), tiny.model_dump(mode="json"), views), PROCESSES)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_loss_and_gradient_are_those_of_one_process(
    name: str, together: list[dict[str, Any]], tiny: LocalizerConfig, views: list[AVBatch]
) -> None:
    """With all rows in one process there is the same loss in every process, and the same gradient of every weight."""
    expected = _found(Loss(name, tiny), views)
    alone = _found(Loss(name, tiny), [_rows(view, slice(0, ROWS // PROCESSES)) for view in views])
    assert (alone["loss"] - expected["loss"]).abs() > 1e-3  # its own rows alone would not do
    for found in together:
        assert set(found[name]) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(found[name][key], value, atol=1e-5 * float(value.abs().max()), rtol=1e-4)


@pytest.mark.slow
def test_every_process_knows_the_labels_of_all_rows(
    together: list[dict[str, Any]], tiny: LocalizerConfig, views: list[AVBatch]
) -> None:
    """XPL's averages and their reliability, by which clips are admitted, are those of one process that sees all."""
    expected = _labeled(tiny, views)
    assert not expected["labels"].isnan().any()
    for found in together:
        for key, value in expected.items():
            torch.testing.assert_close(found["xpl"][key], value, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_rows_come_in_the_order_of_the_ranks(together: list[dict[str, Any]]) -> None:
    """Gathered rows are the same everywhere, and what follows the first is the first's."""
    for found in together:
        assert found["gather"].tolist() == [0, 0, 1, 1]
        assert found["first"].tolist() == [0, 0]


def test_a_process_alone_has_all_rows() -> None:
    """Nothing is copied."""
    rows = torch.zeros(2)
    assert gather(rows) is rows
