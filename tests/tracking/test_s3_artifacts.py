"""Artifacts on S3: written by a run here, read back by its address."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import boto3
import pytest
from mlflow.artifacts import download_artifacts
from tests.fixtures.messages import facts

from avsl.tracking.runs import RunTags, start_or_resume_run
from avsl.tracking.store import Store, TrackingError


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
