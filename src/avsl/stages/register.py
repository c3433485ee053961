"""The registration step: the best model of one label ratio becomes champion."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace

from avsl.config.compose import compose
from avsl.config.models import Config
from avsl.data.splits import Split
from avsl.evaluation.outcomes import read_validation
from avsl.evaluation.scoring import METRIC
from avsl.files import write_json
from avsl.paths import Layout
from avsl.records import EvaluationRecord, StaleError, load_evaluated
from avsl.registry.card import model_card
from avsl.registry.cost import count_parameters
from avsl.registry.packaging import model_code
from avsl.registry.promotion import promote
from avsl.registry.rules import Candidate, Decision, model_name
from avsl.tracking.runs import id_in_store
from avsl.tracking.store import Store, open_store

log = logging.getLogger(__name__)


def register(overrides: Sequence[str] = ()) -> None:
    """Give the best evaluated model of one label ratio the alias ``champion``: first the method, then its best seed.

    :func:`avsl.registry.rules.judge` uses only validation scores.
    A champion chosen by hand (`avsl models promote`, `rollback`) stays until a model is better than all that were
    registered at that time: :func:`avsl.registry.rules.lead`.

    Raises:
        TrackingError: the store fails or lacks a candidate's run, or there is neither a candidate nor a champion.
    """
    config = compose(overrides)
    store = open_store(config.tracking, config.root)
    candidates = [
        replace(candidate, run_id=id_in_store(store, candidate.data, candidate.run_id, candidate.model_dir.parent))
        for candidate in read_candidates(config)
    ]
    decision = decide(config, store, candidates)
    layout = Layout.of(config)
    layout.registered.parent.mkdir(parents=True, exist_ok=True)
    write_json(layout.registered, asdict(decision))


def read_candidates(config: Config) -> list[Candidate]:
    """Read the evaluated models of the configuration's data set and label ratio, of all methods and seeds.

    An evaluation of another model than the one in the training's folder is left out, with a warning.
    """
    layout = Layout.of(config)
    candidates = []
    for evaluation in sorted(path.parent for path in layout.evaluations.glob(f"*/*/{EvaluationRecord.FILE}")):
        method, seed = evaluation.parts[-2:]
        trained = layout.cell.with_name(method) / seed
        split = Split.load(layout.splits / f"{seed}.json")
        try:
            how, scores = load_evaluated(trained, evaluation)
        except StaleError as error:
            log.warning("left out: %s", error)
            continue
        for caveat in scores.caveats:
            log.warning("%s at %s, seed %s: %s", method, layout.ratio, seed, caveat)
        candidates.append(
            Candidate(
                run_id=how.run_id,
                framework=how.framework,
                objective=how.objective,
                score=scores.validation.scores["ciou"],
                metric=scores.metric,
                # A training on another split than its seed's now has does not compete.
                split_hash=split.validation_hash if how.split_hash == split.content_hash else how.split_hash,
                data=config.data.name,
                label_ratio=config.split.label_ratio,
                model_dir=trained / "model",
                model_hash=how.model_hash,
                test_metrics=scores.test.scores,
                seed=how.seed,
                cost=count_parameters(trained / "model"),
                outcomes=read_validation(evaluation),
            )
        )
    return candidates


def decide(config: Config, store: Store, candidates: Sequence[Candidate]) -> Decision:
    """Promote one of the candidates of the configuration's data set and label ratio, and log the decision."""
    layout, data, ratio = Layout.of(config), config.data.name, config.split.label_ratio

    def describe(winner: Candidate, evidence: str) -> str:
        trained = winner.model_dir.parent
        split = Split.load(layout.splits / f"{winner.seed}.json")
        evaluation = layout.evaluations.joinpath(*trained.parts[-2:])
        return model_card(model_name(data, ratio), trained, evaluation, split, evidence)

    # Of any seed: all have the same validation clips.
    splits = sorted(layout.splits.glob("*.json")) or [layout.split]
    split_hash = Split.load(splits[0]).validation_hash
    prefer = config.register.prefer
    decision = promote(
        store, candidates, data, ratio, split_hash, METRIC, model_code(), prefer=prefer, describe=describe
    )
    log.info("%s: %s, version %s (%s)", decision.model, decision.action, decision.version, decision.reason)
    return decision
