"""Strategies that choose which clips to label, by name."""

from __future__ import annotations

from avsl.labels.strategies.at_random import RandomConfig, at_random
from avsl.labels.strategies.coverage import CoverageConfig, coverage
from avsl.labels.strategies.disagreement import DisagreementConfig, disagreement
from avsl.labels.strategies.hybrid import HybridConfig, hybrid
from avsl.labels.strategies.pool import Strategy, StrategyConfig
from avsl.labels.strategies.stratified import StratifiedConfig, stratified

# By name: the strategy and the model of its settings, `labels.NAME.KEY` on the command line.
STRATEGIES: dict[str, tuple[Strategy, type[StrategyConfig]]] = {
    "random": (at_random, RandomConfig),
    "stratified": (stratified, StratifiedConfig),
    "coverage": (coverage, CoverageConfig),
    "disagreement": (disagreement, DisagreementConfig),
    "hybrid": (hybrid, HybridConfig),
}
