"""Records the contents of the data set's folder before `prepare`, so that DVC sees when a clip changes.

Imports nothing slow, because `dvc repro` runs it every time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from avsl.config.params import conf_folders, read_params
from avsl.data.sources import HASHES, AbsentError, folder_hashes
from avsl.files import project_root, write_json
from avsl.schema import ConfigError
from avsl.storage import StorageError, is_remote, listing

log = logging.getLogger(__name__)

RECORD = "source.json"


def source(overrides: Sequence[str] = (), project: Path | None = None) -> None:
    """Record the contents of the data set's folder: of each file its SHA-256, or its ETag on S3.

    If the folder is absent (on another machine, after `dvc pull`) or S3 does not answer, the earlier record of the same
    root stays, with a warning. A generated data set has an empty record.

    Args:
        overrides: must be empty, because the record is of params.yaml's data set.
        project: folder with params.yaml, below which the record is written. By default it is found from the working
            directory.

    Raises:
        ConfigError: there are overrides.
        DataError: the folder holds no files; it is absent and nothing was recorded.
        StorageError: S3 cannot be asked and nothing was recorded.
    """
    if overrides:
        raise ConfigError(f"source takes no overrides, such as '{overrides[0]}': it records params.yaml's data set")
    project = project or project_root()
    name, root = _data_root(project)
    record = project / "outputs" / name / RECORD
    try:
        if is_remote(root):
            files = listing(root)
        else:
            files = folder_hashes(project / root, record.with_name(HASHES)) if root else {}
    except (AbsentError, StorageError) as error:
        if not record.is_file() or json.loads(record.read_bytes())["root"] != root:
            raise
        log.warning("%s: what %s says of it stands", error, record)
        return
    write_json(record, {"root": root, "files": files})
    log.info("%s: %d files", root or name, len(files))


def _data_root(project: Path) -> tuple[str, str]:
    """Read the name and root of params.yaml's data set without the slow import of all data sets.

    The root of a generated data set is empty, and so is one that is not set, which `prepare` refuses.
    """
    data = read_params(project)["data"]
    name = str(data["name"])
    files = [folder / "data" / f"{name}.yaml" for folder in conf_folders(project)]
    layers = [OmegaConf.load(path) for path in files if path.is_file()]
    section: Any = OmegaConf.to_container(OmegaConf.merge(*layers, data), resolve=True)
    return name, str((section.get(name) or {}).get("root") or "")
