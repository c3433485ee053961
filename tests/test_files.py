"""Files are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from avsl.files import whole_file


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    """A write that fails changes nothing and leaves no temporary file."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with whole_file(path) as part:
            part.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
