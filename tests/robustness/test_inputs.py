"""A few of the campaign's damaged inputs (benchmarks/faults), and what it is made of."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from benchmarks.faults.damage import GENERIC, Case, cases, write_valid
from benchmarks.faults.inputs import Inputs

# One or more of each kind, those first that once were told with a traceback or took gigabytes.
_CHOSEN = {
    *("quiet_bomb", "claimed_size", "rate_44099", "channels_65535", "unknown_encoding", "billion_laughs"),
    *("endless_field", "long_path", "unreadable", "piped", "pickle_inside", "truncated"),
}


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """The campaign in a folder."""
    # What a command imports is imported before its process is forked.

    return Inputs(tmp_path_factory.mktemp("inputs"))


def _chosen() -> list[Case]:
    """The first case of each chosen damage, and of each renaming on the folder of videos."""
    first: dict[str, Case] = {}
    for case in cases(500):
        name = case.damage.__name__
        if name in _CHOSEN or (name.startswith("renamed") and case.command == "localize_folder"):
            first.setdefault(name, case)
    assert first.keys() >= _CHOSEN
    return list(first.values())


@pytest.mark.slow
@pytest.mark.parametrize("case", _chosen(), ids=lambda case: f"{case.command}-{case.data}-{case.damage.__name__}")
def test_a_damaged_input_is_survived(case: Case, tried: Inputs) -> None:
    """A sentence or a result, within the time and the memory, and every row is accounted for."""
    outcome = tried.run(case)
    assert not outcome.failed, f"{outcome.verdict} after {outcome.seconds:.1f} s, {outcome.peak} bytes: {outcome.said}"
    if case.kind not in ("file names", "sounds"):
        assert outcome.verdict != "used"


def test_the_campaign_is_the_same_every_time_and_leaves_nothing_out(tmp_path: Path) -> None:
    """500 cases by number alone; every general damage comes on many files, every file named is there."""
    campaign = list(cases(500))
    assert campaign == list(cases(500))
    assert [case.number for case in campaign] == list(range(500))
    counts = Counter(case.damage for case in campaign)
    assert min(counts[damage] for damage in GENERIC) >= 10
    assert min(Counter(case.kind for case in campaign).values()) >= 10
    write_valid(tmp_path)
    assert all((tmp_path / case.data / case.file).is_file() for case in campaign)


@pytest.mark.parametrize("damage", GENERIC, ids=lambda damage: damage.__name__)
def test_a_damage_damages(tmp_path: Path, damage: object) -> None:
    """No general damage leaves a file as it was."""
    assert callable(damage)
    path = tmp_path / "film.mp4"
    content = np.random.default_rng(0).bytes(3000)
    path.write_bytes(content)
    damage(path, np.random.default_rng(1))
    assert not path.is_file() or not path.stat().st_mode & 0o400 or path.read_bytes() != content
