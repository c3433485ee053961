"""Runs found by their id, also where they were recorded again."""

from __future__ import annotations

from avsl.tracking.runs import RESTORED_FROM, RunTags, find_run, start_or_resume_run
from avsl.tracking.store import Store


def test_a_run_is_found_by_its_own_id_and_by_that_of_its_original(store: Store, data: str, tags: RunTags) -> None:
    """A copy has its own id and says whether it is finished; what is neither is not found."""
    assert find_run(store, data, "elsewhere") is None
    with start_or_resume_run(store, data, "copy", tags, {}) as copy:
        copy.set_tags({RESTORED_FROM: "elsewhere"})
        found = find_run(store, data, "elsewhere")
        assert found is not None
        assert (found.run_id, found.status) == (copy.run_id, "RUNNING")
    found = find_run(store, data, "elsewhere")
    assert found is not None
    assert (found.run_id, found.status) == (copy.run_id, "FINISHED")
    itself = find_run(store, data, copy.run_id)
    assert itself is not None
    assert itself.run_id == copy.run_id
    assert find_run(store, data, "nowhere") is None
    assert find_run(store, f"{data}-other", "elsewhere") is None
