"""Simulated annotation: how many labels does a strategy need for what labels drawn at random bring?

    python -m benchmarks.labels.simulate --project OUTPUTS --work FOLDER [--ratios 0.03] [--seeds 0 1] [KEY=VALUE ...]

OUTPUTS is the folder that `dvc repro` leaves: its prepared set, whose boxes are the annotators' answers, and its start
weights. A training with random half of a ratio's labels (round 1) is shared by all strategies; each strategy chooses
the other half (round 2) with round 1's DMT model, and every framework is trained with the result. Every training is a
process of one thread; FOLDER keeps what is trained, and an interrupted training continues from its checkpoint. Further
arguments change params.yaml, as trainer.epochs=4. Writes the table, simulate.md, into FOLDER.

In the table, "labels needed" is the share of random's most labels with which the strategy has random's CIoU with all
of them, by its curve over the numbers of labels, linear in log n; "more" says that it does not get there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice, product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.train.workbench import table

from avsl.config.compose import compose
from avsl.data.prepared.reader import PreparedData
from avsl.data.splits import Split, SplitConfig, make_split
from avsl.evaluation.outcomes import Outcomes, compare_outcomes, read_test, summarize_outcomes
from avsl.files import write_json, write_text
from avsl.labels.perception import Perceiver, join_perceptions
from avsl.labels.strategies import STRATEGIES
from avsl.labels.strategies.pool import Perception, Pool
from avsl.models import load_exported
from avsl.paths import Layout
from avsl.records import EvaluationRecord, RunRecord
from avsl.report.comparison import format_difference, format_summary
from avsl.stages.evaluate import evaluate_on, write_evaluation
from avsl.stages.train import train_and_export
from avsl.tracking.runs import Unrecorded
from avsl.training.checkpoint import find_checkpoint
from avsl.training.loop import identity

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FIRST = "round-1"
_CHOOSER = "dmt"
_BATCH = 64
_DRAWS = 2000


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        strategies: that choose the second round, ``random`` among them.
        frameworks: trained with each choice, `_CHOOSER` among them.
        ratios: of labels after both rounds.
        seeds: each with its first round.
    """

    strategies: Sequence[str]
    frameworks: Sequence[str]
    ratios: Sequence[float]
    seeds: Sequence[int]


class Simulation:
    """Rounds of simulated annotation below one folder.

    Args:
        outputs: of a project, with a prepared set and start weights.
        work: folder of the simulation.
        overrides: changes to params.yaml.
    """

    def __init__(self, outputs: Path, work: Path, overrides: Sequence[str]) -> None:
        self.outputs = outputs
        self.work = work
        self.overrides = list(overrides)

    def asked(self, chosen: str, framework: str, ratio: float, seed: int) -> list[str]:
        """Return the overrides of a training with the labels that a strategy, or round 1, has chosen."""
        return [
            *self.overrides,
            f"root={self.work / chosen}",
            f"framework={framework}",
            f"split.label_ratio={ratio}",
            f"seed={seed}",
        ]

    def layout(self, chosen: str, framework: str, ratio: float, seed: int) -> Layout:
        """Return the folders of a training."""
        return Layout.of(compose(self.asked(chosen, framework, ratio, seed)))

    def labels(self, chosen: str, ratio: float, seed: int) -> Path:
        """Return the file with the ids that a strategy, or round 1, has chosen."""
        return self.work / chosen / f"labels-{ratio}-{seed}.json"

    def prepare(self, chosen: str) -> None:
        """Link the project's prepared set and start weights where trainings look for them."""
        here = self.layout(chosen, _CHOOSER, 1.0, 0)
        there = Layout.of(compose([*self.overrides, f"root={self.outputs}"]))
        for link, target in ((here.prepared, there.prepared), (here.all_starts, there.all_starts)):
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target.resolve())

    def choose(self, strategy: str, ratio: float, seed: int) -> None:
        """Choose a round's labels, unless it is chosen: half of the ratio's, in round 1 at random among all clips."""
        path = self.labels(strategy, ratio, seed)
        if path.is_file():
            return
        layout = self.layout(_FIRST, _CHOOSER, ratio, seed)
        data = PreparedData.open(layout.prepared)
        rows = data.indices("train")
        rows = rows[data.annotated[rows]]
        wanted = max(2, round(ratio * len(data.indices("train"))))
        rng = np.random.default_rng([seed, round(1e6 * ratio), 1 + (strategy != _FIRST)])
        known: list[int] = []
        perceptions = None
        if strategy != _FIRST:
            known = data.rows_of(json.loads(self.labels(_FIRST, ratio, seed).read_text())).tolist()
        taken = {data.source_ids[row] for row in known}
        # One clip of each recording, as a round has.
        order = rng.permutation(rows).tolist()
        of_recording = {data.source_ids[row]: row for row in order if data.source_ids[row] not in taken}
        candidates = sorted(of_recording.values())
        name = "random" if strategy == _FIRST else strategy
        function, settings = STRATEGIES[name]
        if settings.ASKS_MODEL:
            model = layout.train / "model"
            perceptions = look(model, data, candidates), look(model, data, known)
        counts = Counter(data.labels[row] for row in known)
        pool = Pool([data.labels[row] for row in candidates], counts, perceptions)
        number = wanted // 2 if strategy == _FIRST else wanted - len(known)
        chosen = [candidates[choice.index] for choice in islice(function(pool, settings(), rng), number)]
        write_json(path, [data.sample_ids[row] for row in sorted([*known, *chosen])])

    def split(self, chosen: str, ratio: float, seed: int, data: PreparedData) -> Split:
        """Return the split in which exactly the chosen clips are labeled."""
        labeled = json.loads(self.labels(chosen, ratio, seed).read_text())
        sources = {data.source_ids[row] for row in data.rows_of(labeled)}
        train = data.indices("train").tolist()
        unlabeled = [data.sample_ids[row] for row in train if data.source_ids[row] not in sources]
        drawn = make_split(data, SplitConfig(label_ratio=ratio, seed=seed))
        content_hash = hashlib.sha256(json.dumps([drawn.content_hash, labeled]).encode()).hexdigest()
        return drawn.model_copy(update={"labeled": labeled, "unlabeled": unlabeled, "content_hash": content_hash})

    def train(self, chosen: str, framework: str, ratio: float, seed: int) -> None:
        """Train and score in this process."""
        import torch

        torch.set_num_threads(1)
        overrides = self.asked(chosen, framework, ratio, seed)
        config = compose(overrides)
        layout = Layout.of(config)
        data = PreparedData.open(layout.prepared)
        split = self.split(chosen, ratio, seed, data)
        resume = find_checkpoint(layout.checkpoint, identity(config, split, layout.start)) is not None
        origin = {"command": " ".join(["python -m benchmarks.labels.simulate", *overrides]), "git_commit": "none"}
        train_and_export(config, data, split, Unrecorded(), origin, resume=resume)
        model, _ = load_exported(layout.train / "model")
        result = evaluate_on(config, data, split, list(model.members))
        scores = EvaluationRecord.of(RunRecord.load(layout.train), result.figures)
        write_evaluation(config, data, result, scores, layout.evaluation)

    def run(self, plan: Plan, jobs: int) -> None:
        """Do all rounds, seed by seed, so that what is there at any time is of whole seeds but the last."""
        for chosen in (_FIRST, *plan.strategies):
            self.prepare(chosen)
        for seed, ratio, chosen in product(plan.seeds, plan.ratios, (_FIRST, *plan.strategies)):
            self.choose(chosen, ratio, seed)
            self._train_missing([(chosen, framework, ratio, seed) for framework in plan.frameworks], jobs)

    def _train_missing(self, wanted: Sequence[tuple[str, str, float, int]], jobs: int) -> None:
        missing = [job for job in wanted if not EvaluationRecord.exists(self.layout(*job).evaluation)]
        if not missing:
            return
        print("training", *(" ".join(map(str, job)) for job in missing), sep="\n  ", flush=True)
        # A fresh process each, or MKL's and torch's threads of one training would be another's.
        with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
            for done in [pool.submit(self.train, *job) for job in missing]:
                done.result()

    def curve(self, strategy: str, framework: str, plan: Plan) -> dict[int, dict[int, Outcomes]]:
        """Return what is there by rising number of labels and by seed, of test: of round 1 and of the strategy's."""
        curve: dict[int, dict[int, Outcomes]] = {}
        for ratio, chosen, seed in product(plan.ratios, (_FIRST, strategy), plan.seeds):
            evaluation = self.layout(chosen, framework, ratio, seed).evaluation
            if EvaluationRecord.exists(evaluation):
                labels = len(json.loads(self.labels(chosen, ratio, seed).read_text()))
                curve.setdefault(labels, {})[seed] = read_test(evaluation)
        return dict(sorted(curve.items()))


def look(model: Path, data: PreparedData, rows: Sequence[int]) -> Perception:
    """Pass samples of a prepared set through an exported model."""
    ensemble, stated = load_exported(model)
    perceiver = Perceiver(ensemble, stated.image_size, stated.sample_rate, stated.duration_s)
    batches = [np.array(rows[start : start + _BATCH]) for start in range(0, len(rows), _BATCH)]
    return join_perceptions([perceiver.look(data.frames(of), data.waveforms(of)) for of in batches])


def labels_needed(curve: Sequence[tuple[int, float]], target: float) -> float:
    """Return the labels at which a curve first reaches a score, linear in log n between its points.

    Args:
        curve: (labels, score), rising in labels.
        target: the score.

    Returns:
        The fewest labels of the curve if all of it is above, infinity if none is.
    """
    before: tuple[int, float] | None = None
    for labels, score in curve:
        if score >= target:
            if before is None:
                return float(labels)
            share = (target - before[1]) / (score - before[1])
            return math.exp(math.log(before[0]) + share * (math.log(labels) - math.log(before[0])))
        before = labels, score
    return math.inf


def compare(
    strategy: Mapping[int, Mapping[int, Outcomes]], chance: Mapping[int, Mapping[int, Outcomes]]
) -> tuple[float, float, float]:
    """Return a strategy's labels for random's score with the most labels, as a share of random's, with an interval.

    Args:
        strategy: by number of labels and seed, what was found of each test sample; so is ``chance``.
        chance: labels drawn at random.

    Returns:
        The share, and its 95 % interval over seeds and test recordings (percentiles of a bootstrap of both, which are
        too narrow for few seeds); infinity where the strategy does not reach the score. Of the seeds that both have.
    """
    counts = sorted(chance.keys() & strategy.keys())
    seeds = sorted(set.intersection(*(set(of[count]) for of in (strategy, chance) for count in counts)))
    recordings = np.unique(next(iter(chance[counts[0]].values())).recordings, return_inverse=True)[1]
    own, drawn = (np.stack([[of[n][seed].found for seed in seeds] for n in counts]) for of in (strategy, chance))

    def share(of_seeds: NDArray[np.int64], weights: NDArray[np.float64]) -> float:
        curves = [np.average(found[:, of_seeds].mean(1), axis=1, weights=weights) for found in (own, drawn)]
        needed = labels_needed(list(zip(counts, curves[0].tolist(), strict=True)), float(curves[1][-1]))
        return needed / counts[-1]

    rng = np.random.default_rng(0)
    draws = []
    n = int(recordings.max()) + 1
    for _ in range(_DRAWS):
        weights = rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64)[recordings]
        draws.append(share(rng.integers(len(seeds), size=len(seeds)), weights))
    low, high = np.sort(draws)[[round(0.025 * (_DRAWS - 1)), round(0.975 * (_DRAWS - 1))]]
    return share(np.arange(len(seeds)), np.ones(len(recordings))), float(low), float(high)


def tabulate(simulation: Simulation, plan: Plan) -> list[dict[str, str]]:
    """Return a row for each framework, number of labels and strategy that has results."""
    rows = []
    for framework in plan.frameworks:
        chance = simulation.curve("random", framework, plan)
        for strategy in plan.strategies:
            own = simulation.curve(strategy, framework, plan)
            for labels, found in own.items():
                # Round 1 is everybody's.
                shared = found.keys() & chance.get(labels, {}).keys()
                first = all(found[seed].source == chance[labels][seed].source for seed in shared)
                if strategy != "random" and (first or not shared):
                    continue
                row = {"framework": framework, "strategy": strategy, "labels": str(labels), "seeds": str(len(found))}
                row |= {"CIoU": format_summary(summarize_outcomes(found)), "from random": "", "labels needed": ""}
                if strategy != "random":
                    both = {strategy: found, "random": chance[labels]}
                    (pair,) = compare_outcomes({name: {s: of[s] for s in sorted(shared)} for name, of in both.items()})
                    difference = pair.difference if pair.first == strategy else pair.difference.reversed()
                    row["from random"] = format_difference(difference)
                    if labels == max(chance):
                        row["labels needed"] = _format_share(*compare(own, chance))
                rows.append(row)
    return rows


def _format_share(share: float, low: float, high: float) -> str:
    def text(value: float) -> str:
        return "more" if math.isinf(value) else f"{100 * value:.0f} %"

    return f"{text(share)} ({text(low)} to {text(high)})"


def main() -> None:
    """Simulate what is missing, then write the table of what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path("outputs"), help="what dvc repro left (default: outputs)")
    parser.add_argument("--work", type=Path, required=True, help="folder of the simulation")
    parser.add_argument("--strategies", nargs="+", default=["random", "coverage", "disagreement", "hybrid"])
    parser.add_argument("--frameworks", nargs="+", default=[_CHOOSER, "supervised"])
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.01, 0.03, 0.1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--tables", action="store_true", help="train nothing")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to params.yaml")
    asked = parser.parse_intermixed_args()
    plan = Plan(
        list(dict.fromkeys(["random", *asked.strategies])),
        list(dict.fromkeys([_CHOOSER, *asked.frameworks])),
        sorted(asked.ratios),
        asked.seeds,
    )
    simulation = Simulation(asked.project, asked.work, asked.overrides)
    if not asked.tables:
        simulation.run(plan, asked.jobs)
    if rows := tabulate(simulation, plan):
        text = table(list(rows[0]), [list(row.values()) for row in rows])
        write_text(asked.work / "simulate.md", text)
        print(text)


if __name__ == "__main__":
    main()
