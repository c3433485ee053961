"""What evaluations left of each sample, read back and compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.fixtures.messages import facts

from avsl.errors import DataError
from avsl.evaluation.outcomes import Outcomes, compare_outcomes, read_test, read_validation, summarize_outcomes


def test_only_samples_with_a_source_in_view_are_read(tmp_path: Path) -> None:
    """Of one part; a cIoU of 0.5 is found."""
    lines = [
        "sample_id,recording,part,label,area,ciou,max_confidence",
        "a,r,test,x,0.1,0.5000,0.9",
        "b,r,test,x,0.1,0.4999,0.9",
        "c,s,test,x,0.0,,0.9",
        "d,s,test_small,x,0.1,0.9000,0.9",
    ]
    (tmp_path / "per_sample.csv").write_text("\n".join(lines) + "\n")
    read = read_test(tmp_path)
    assert (read.samples, read.recordings, read.found.tolist()) == (["a", "b"], ["r", "r"], [1, 0])
    assert read_test(tmp_path, "test_small").samples == ["d"]
    path, ciou = tmp_path / "validation.npz", np.array([0.75, np.nan], np.float32)
    np.savez(path, sample_id=np.array(["v", "w"]), ciou=ciou)
    with pytest.raises(DataError, match=facts(path, "recording")):
        read_validation(tmp_path)
    np.savez(path, sample_id=np.array(["v", "w"]), recording=np.array(["q", "q"]), ciou=ciou)
    read = read_validation(tmp_path)
    assert (read.samples, read.recordings, read.found.tolist()) == (["v"], ["q"], [1])
    for read_part, name in ((read_test, "per_sample.csv"), (read_validation, "validation.npz")):
        with pytest.raises(DataError, match=facts(tmp_path / "nowhere" / name)):
            read_part(tmp_path / "nowhere")


def test_methods_are_compared_on_the_same_samples_only() -> None:
    """Seed by seed; other samples are refused with both files' names, one method alone has no pair."""

    def outcomes(name: str, ciou: float, samples: str = "abcd") -> Outcomes:
        return Outcomes(Path(name), list(samples), list(samples), np.array([ciou, ciou, 0.0, 1.0]))

    seeds = {0: outcomes("a0", 0.6), 1: outcomes("a1", 0.4)}
    assert summarize_outcomes(seeds).mean == pytest.approx(0.5)
    (pair,) = compare_outcomes({"a": seeds, "b": {1: outcomes("b1", 0.9)}})
    assert list(pair.seeds) == [1]
    assert pair.difference.mean == pytest.approx(-0.5)
    assert compare_outcomes({"a": seeds}) == []
    with pytest.raises(DataError, match=facts("b1 a0")):
        compare_outcomes({"a": seeds, "b": {1: outcomes("b1", 0.9, "abce")}})
