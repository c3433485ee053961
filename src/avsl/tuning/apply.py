"""The winner's values in params.yaml, where every stage and command finds them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML

from avsl.config.params import ratio_key
from avsl.files import write_text
from avsl.tuning.space import Value

_NULL = "tag:yaml.org,2002:null"


def apply(project: Path, framework: str, label_ratio: float, values: Mapping[str, Value]) -> Path:
    """Write a winner's values as ``tuned.<framework>.<ratio>``; they replace earlier ones, comments and order stay.

    Args:
        project: the folder with params.yaml.
        framework: the winner's framework.
        label_ratio: the label ratio of the search, in [0, 1].
        values: the values by configuration key.

    Returns:
        The path of params.yaml.
    """
    path = project / "params.yaml"
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    # params.yaml writes null; ruamel.yaml writes nothing.
    yaml.representer.add_representer(type(None), lambda writer, _: writer.represent_scalar(_NULL, "null"))
    params = yaml.load(path.read_text(encoding="utf-8"))
    tree: dict[str, object] = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            inner = node.setdefault(section, {})
            assert isinstance(inner, dict)
            node = inner
        node[last] = value
    if params.get("tuned") is None:
        params["tuned"] = {}
    if params["tuned"].get(framework) is None:
        params["tuned"][framework] = {}
    params["tuned"][framework][ratio_key(label_ratio)] = tree
    stream = io.StringIO()
    yaml.dump(params, stream)
    write_text(path, stream.getvalue())
    return path
