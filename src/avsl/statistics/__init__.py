"""What scores of several seeds and test recordings say: intervals, paired comparisons, power."""

from avsl.statistics.intervals import Summary, bootstrap_interval, summarize_seeds
from avsl.statistics.paired import Pair, compare_pairs, holm, tied_groups
from avsl.statistics.power import Needed, plan

__all__ = [
    "Needed",
    "Pair",
    "Summary",
    "bootstrap_interval",
    "compare_pairs",
    "holm",
    "plan",
    "summarize_seeds",
    "tied_groups",
]
