"""The hash of an exported model."""

from __future__ import annotations

import hashlib
from pathlib import Path


def hash_model(folder: Path) -> str:
    """SHA-256 over the exported model's files."""
    digest = hashlib.sha256()
    for name in ("model.json", "model.safetensors"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
