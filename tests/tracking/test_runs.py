"""Runs on a real MLflow store."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from mlflow.artifacts import download_artifacts
from tests.fixtures.messages import facts

from avsl.tracking.runs import RESTORED_FROM, RunTags, TrackedRun, find_run, git_commit, start_or_resume_run
from avsl.tracking.store import Store, TrackingError


def _points(store: Store, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.client.get_metric_history(run_id, key)]


def _start(store: Store, data: str, tags: RunTags) -> TrackedRun:
    return start_or_resume_run(store, data, "a run", tags, {"lr": 0.1})


def test_epochs_are_steps_and_tags_are_found(store: Store, data: str, tags: RunTags) -> None:
    """Every metric has a point at each epoch; runs are found by tag."""
    with _start(store, data, tags) as run:
        for epoch in range(3):
            run.log_epoch({"train/loss": 1.0 / (epoch + 1), "val/ciou": epoch / 10}, epoch)
    recorded = store.client.get_run(run.run_id)
    assert recorded.info.status == "FINISHED"
    assert _points(store, run.run_id, "train/loss") == [(0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert _points(store, run.run_id, "val/ciou") == [(0, 0.0), (1, 0.1), (2, 0.2)]
    experiment = store.client.get_experiment_by_name(f"avsl-{data}")
    assert experiment is not None
    query = "tags.framework = 'dmt' and tags.label_ratio = '0.03' and tags.dvc_stage = 'train@dmt'"
    assert [found.info.run_id for found in store.client.search_runs([experiment.experiment_id], query)] == [run.run_id]


def test_lists_of_runs_say_what_each_is(store: Store, data: str, tags: RunTags) -> None:
    """What MLflow shows by default: source, commit, data set; the framework is a separate parameter."""
    with start_or_resume_run(store, data, "", tags, {"framework": {"name": "dmt"}}) as run:
        pass
    found = store.client.get_run(run.run_id)
    assert found.data.tags["mlflow.source.name"] == tags.dvc_stage
    assert found.data.tags["mlflow.source.git.commit"] == tags.git_commit
    assert found.data.params == {"framework": "dmt", "framework.name": "dmt"}
    assert found.inputs is not None
    (used,) = found.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == (data, tags.data_hash)
    assert tags.data_hash in used.dataset.source


def test_run_left_running_is_resumed_without_a_second_point(store: Store, data: str, tags: RunTags) -> None:
    """A killed run goes on by id; the epoch it repeats is not recorded twice."""
    killed = _start(store, data, tags)
    for epoch, loss in enumerate((3.0, 2.0, 1.5)):
        killed.log_epoch({"loss": loss}, epoch)
    assert store.client.get_run(killed.run_id).info.status == "RUNNING"

    with start_or_resume_run(store, data, "a run", tags, {"lr": 0.1}, killed.run_id) as resumed:
        for epoch, loss in ((2, 1.5), (3, 1.2)):
            resumed.log_epoch({"loss": loss, "late": loss}, epoch)
    assert resumed.run_id == killed.run_id
    assert _points(store, resumed.run_id, "loss") == [(0, 3.0), (1, 2.0), (2, 1.5), (3, 1.2)]
    assert _points(store, resumed.run_id, "late") == [(2, 1.5), (3, 1.2)]
    info = store.client.get_run(resumed.run_id).info
    assert info.status == "FINISHED"
    assert len(store.client.search_runs([info.experiment_id])) == 1


def test_resume_refuses_unknown_deleted_foreign_and_changed_runs(store: Store, data: str, tags: RunTags) -> None:
    """Each refusal names the run or the key."""
    run = _start(store, data, tags)
    with pytest.raises(TrackingError, match=facts("'no-such-run' sqlite")):
        start_or_resume_run(store, data, "", tags, {}, "no-such-run")
    with pytest.raises(TrackingError, match=facts(f"'{run.run_id}' 'avsl-{data}-other'")):
        start_or_resume_run(store, f"{data}-other", "", tags, {}, run.run_id)
    with pytest.raises(TrackingError, match="lr"):
        start_or_resume_run(store, data, "", tags, {"lr": 0.2}, run.run_id)
    store.client.delete_run(run.run_id)
    with pytest.raises(TrackingError, match=f"'{run.run_id}'.*deleted"):
        start_or_resume_run(store, data, "", tags, {}, run.run_id)


def test_params_are_flattened_batched_and_cut(store: Store, data: str, tags: RunTags) -> None:
    """More than a batch of parameters, nested, one of them too long."""
    config = {
        "framework": {"dmt": {"delta": 0.6, "taus": [1, 2]}, "none": {}},
        "many": {f"k{number}": number for number in range(250)},
        "long": "x" * 7000,
    }
    with start_or_resume_run(store, data, "", tags, config) as run:
        pass
    recorded = store.client.get_run(run.run_id).data
    assert recorded.params["framework.dmt.delta"] == "0.6"
    assert recorded.params["framework.dmt.taus"] == "[1, 2]"
    assert recorded.params["framework.none"] == "{}"
    assert [recorded.params[f"many.k{number}"] for number in range(250)] == [str(number) for number in range(250)]
    assert recorded.params["long"] == "x" * 6000
    assert recorded.tags["params_cut"] == "long"


@pytest.mark.parametrize(("raised", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_run_ends_as_its_block_does(
    store: Store, data: str, tags: RunTags, raised: type[BaseException], status: str
) -> None:
    """An error ends the run FAILED, an interrupt KILLED, and both pass on."""
    run = _start(store, data, tags)
    with pytest.raises(raised), run:
        raise raised
    assert store.client.get_run(run.run_id).info.status == status


def test_artifacts_lie_under_the_root(store: Store, data: str, tags: RunTags, tmp_path: Path) -> None:
    """Files and folders arrive under the artifact root."""
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "loss.svg").write_text("<svg/>")
    (tmp_path / "config.yaml").write_text("lr: 0.1\n")
    with _start(store, data, tags) as run:
        run.log_file(tmp_path / "config.yaml")
        run.log_folder(tmp_path / "plots", "curves")
        with pytest.raises(TrackingError, match=r"missing\.txt"):
            run.log_file(tmp_path / "missing.txt")
        with pytest.raises(TrackingError, match=facts("folder")):
            run.log_folder(tmp_path / "config.yaml")
    assert store.artifact_root is not None
    stored = Path(store.artifact_root.removeprefix("file://")) / f"avsl-{data}" / run.run_id / "artifacts"
    assert (stored / "config.yaml").read_text() == "lr: 0.1\n"
    assert (stored / "curves" / "loss.svg").read_text() == "<svg/>"


def test_system_metrics_are_recorded_while_open(
    store: Store, data: str, tags: RunTags, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's monitor writes to the run, after the first epoch, which comparisons show first, and stops with it."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    watched = Store(store.client, store.artifact_root, system_metrics=True)
    with _start(watched, data, tags) as run:
        time.sleep(0.5)
        run.log_epoch({"val/ciou": 0.5}, 1)
        deadline = time.monotonic() + 60
        while "system/cpu_utilization_percentage" not in store.client.get_run(run.run_id).data.metrics:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    recorded = store.client.get_run(run.run_id)
    assert recorded.info.status == "FINISHED"
    assert recorded.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert next(iter(recorded.data.metrics)) == "val/ciou"


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


def test_git_commit_is_dirty_where_results_may_differ(tmp_path: Path) -> None:
    """The commit's hash whatever the tags and dvc.lock say; "none" outside a repository."""
    assert git_commit(tmp_path) == "none"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    decisive = ("params.yaml", "src/a.py", "conf/model/own.yaml")
    for name in ("dvc.lock", "README.md", *decisive):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for name in ("dvc.lock", "README.md", "notes.txt"):
        (tmp_path / name).write_text("2")
    assert git_commit(tmp_path) == head
    for name in (*decisive, "src/new.py"):
        (tmp_path / name).write_text("2")
        assert git_commit(tmp_path) == f"{head}-dirty", name
        (tmp_path / name).unlink()
        subprocess.run([*git, "checkout", "-q", "--", *decisive], check=True)


def test_a_runs_artifacts_lie_on_s3_and_come_back(
    store: Store, data: str, tags: RunTags, bucket: str, tmp_path: Path
) -> None:
    """With an artifact root on S3 nothing but the AWS variables is needed, in either direction."""
    remote = replace(store, artifact_root=f"s3://{bucket}/runs")
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "x.bin").write_bytes(bytes(range(256)))
    (folder / "y.txt").write_text("y")
    with start_or_resume_run(remote, data, "run", tags, {}) as run:
        run.log_folder(folder, "kept")
        run.log_file(folder / "y.txt")
    address = store.client.get_run(run.run_id).info.artifact_uri
    assert address.startswith(f"s3://{bucket}/runs/avsl-{data}/")
    stored = {entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]}
    assert {key.partition("/artifacts/")[2] for key in stored} == {"kept/deep/x.bin", "kept/y.txt", "y.txt"}
    found = Path(download_artifacts(artifact_uri=f"{address}/kept", dst_path=str(tmp_path / "found")))
    assert (found / "deep" / "x.bin").read_bytes() == bytes(range(256))
    assert (found / "y.txt").read_text() == "y"


def test_a_missing_bucket_is_one_sentence(store: Store, data: str, tags: RunTags, bucket: str, tmp_path: Path) -> None:
    """The file that cannot be written is named."""
    (tmp_path / "note.txt").write_text("heard")
    remote = replace(store, artifact_root=f"s3://{bucket}-gone/runs")
    with (
        start_or_resume_run(remote, data, "run", tags, {}) as run,
        pytest.raises(TrackingError, match=facts("note.txt")),
    ):
        run.log_file(tmp_path / "note.txt")
