"""The hash of an exported model."""

from __future__ import annotations

from pathlib import Path

from avsl.models.hashing import hash_model


def test_model_hash_follows_weights_and_description(exported: Path) -> None:
    """A change in either file changes the hash."""
    hashes = {hash_model(exported), hash_model(exported)}
    (exported / "model.safetensors").write_bytes(b"weightz")
    hashes.add(hash_model(exported))
    (exported / "model.json").write_text("{}")
    hashes.add(hash_model(exported))
    assert len(hashes) == 3
