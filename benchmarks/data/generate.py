"""Time the generation of the embedded benchmark: ``python benchmarks/data/generate.py [ROOT] [--workers N]``."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from avsl.data.datasets.synthetic import SyntheticConfig, generate
from avsl.data.prepared.reader import PreparedData


def main() -> None:
    """Generate the default set, open it, read one epoch's frames and waveforms; print what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, help="where to keep the set; a temporary folder by default")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.root or Path(temporary)
        start = time.perf_counter()
        manifest = generate(SyntheticConfig(), root, arguments.workers)
        made = time.perf_counter()
        data = PreparedData.open(root)
        train = data.indices("train")
        for first in range(0, len(train), 64):
            data.frames(train[first : first + 64])
            data.waveforms(train[first : first + 64])
        read = time.perf_counter()
    rows = sum(manifest.counts.values())
    print(f"{rows} rows on {arguments.workers} workers: {made - start:.1f} s; content {manifest.content_hash[:12]}")
    print(f"reading {len(train)} rows in batches of 64: {(read - made) * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
