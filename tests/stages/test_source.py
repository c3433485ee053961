"""The record of a data set's folder: where it comes from, and what stands where the folder is not."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from tests.fixtures.messages import facts, says

from avsl.config.compose import compose
from avsl.data.datasets import DATASETS, on_disk
from avsl.errors import DataError
from avsl.schema import ConfigError
from avsl.stages.source import source
from avsl.storage import StorageError

_PROJECT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the settings' defaults and no data set chosen."""
    root = tmp_path / "project"
    root.mkdir()
    return root


def _choose(project: Path, name: str, **settings: str) -> None:
    params = yaml.safe_load((_PROJECT / "params.yaml").read_text())
    (project / "params.yaml").write_text(yaml.safe_dump(params | {"data": {"name": name, name: settings}}))


def _recorded(project: Path, name: str) -> dict[str, Any]:
    source(project=project)
    found: dict[str, Any] = json.loads((project / "outputs" / name / "source.json").read_text())
    return found


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", DATASETS)
def test_the_root_is_the_one_that_prepare_finds(name: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each data set, with a root relative to the project; a root that is not set is named."""
    monkeypatch.chdir(project)
    if name not in on_disk():
        _choose(project, name)
        assert _recorded(project, name) == {"root": "", "files": {}}
        return
    (project / "media").mkdir()
    (project / "media" / "x.mp4").write_bytes(b"x")
    _choose(project, name, root="media")
    settings = compose([], project).data.settings
    assert _recorded(project, name) == {"root": settings.model_dump()["root"], "files": {"x.mp4": _sha256(b"x")}}
    _choose(project, name)
    assert _recorded(project, name)["root"] == ""
    with pytest.raises(ConfigError, match=facts(f"data.{name}.root")):
        compose([], project)


def test_where_the_folder_is_not_its_record_stands(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning, and only for this very root; a folder that was emptied is an error."""
    media = tmp_path / "media"
    media.mkdir()
    (media / "x.mp4").write_bytes(b"x")
    _choose(project, "folder", root=str(media))
    first = _recorded(project, "folder")
    media.rename(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        assert _recorded(project, "folder") == first
    assert says(caplog.text, media)
    _choose(project, "folder", root=str(tmp_path / "other"))
    with pytest.raises(DataError, match=facts("other")):
        source(project=project)
    _choose(project, "folder", root=str(media))
    media.mkdir()
    with pytest.raises(DataError, match=facts("media")):
        source(project=project)


def test_on_s3_the_etags_tell(project: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replaced object shows; nothing is fetched; without access the record stands."""
    client = boto3.client("s3")
    uri = f"s3://{bucket}/set"
    _choose(project, "folder", root=uri)
    with pytest.raises(StorageError, match=facts(uri)):
        source(project=project)
    client.put_object(Bucket=bucket, Key="set/frames/x.png", Body=b"x")
    client.put_object(Bucket=bucket, Key="settings", Body=b"of something else")
    first = _recorded(project, "folder")
    assert first == {"root": uri, "files": {"frames/x.png": hashlib.md5(b"x").hexdigest()}}
    assert [path.name for path in (project / "outputs").rglob("*") if path.is_file()] == ["source.json"]
    client.put_object(Bucket=bucket, Key="set/frames/x.png", Body=b"y")
    second = _recorded(project, "folder")
    assert second["files"].keys() == first["files"].keys()
    assert second != first
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    assert _recorded(project, "folder") == second
