"""The cost of serving a model, from its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.fixtures.messages import facts

from avsl.errors import DataError
from avsl.registry.cost import count_parameters


def test_every_number_of_every_member_counts(tmp_path: Path) -> None:
    """Matrices, vectors and single numbers; weights that are missing or damaged are named."""
    path = tmp_path / "model.safetensors"
    with pytest.raises(DataError, match=facts(path)):
        count_parameters(tmp_path)
    save_file({"0.w": torch.zeros(3, 4), "1.w": torch.zeros(5), "1.n": torch.tensor(1)}, path)
    assert count_parameters(tmp_path) == 18
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match=facts(path)):
        count_parameters(tmp_path)
