"""What a benchmark holds in memory."""

from __future__ import annotations

import threading
from pathlib import Path


class Peak(threading.Thread):
    """The most private memory, in MB, that this process held while the block ran; mapped files do not count."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self.mb = 0.0

    def __enter__(self) -> Peak:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        """Look every few milliseconds, and once at the end."""
        while not self._over.wait(0.005):
            self._look()
        self._look()

    def _look(self) -> None:
        self.mb = max(self.mb, held())


def held() -> float:
    """MB that this process holds itself now; mapped files do not count."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) / 1024
