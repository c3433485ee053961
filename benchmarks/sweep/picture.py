"""The README's picture of a search: what was best when, and what mattered, for the framework that won.

    python -m benchmarks.sweep.picture outputs/sweep/demo/synthetic/search/0.03

puts Optuna's plots, which every search leaves, side by side into ``demo.png`` beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

_HERE = Path(__file__).parent
_HEIGHT = 420


def main() -> None:
    """Read the winner's plots, scale them to one height, and write them as one picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("search", type=Path, help="a search's folder, with result.json")
    search: Path = parser.parse_args().search
    result = json.loads((search / "result.json").read_text())
    winner = next(trial["framework"] for trial in result["trials"] if trial["number"] == result["best"])
    panels = []
    for name in ("history", "importance"):
        with Image.open(search / "plots" / f"{winner}-{name}.png") as plot:
            panels.append(
                plot.convert("RGB").resize((plot.width * _HEIGHT // plot.height, _HEIGHT), Image.Resampling.LANCZOS)
            )
    picture = Image.new("RGB", (sum(panel.width for panel in panels), _HEIGHT), "white")
    left = 0
    for panel in panels:
        picture.paste(panel, (left, 0))
        left += panel.width
    picture.quantize(64).save(_HERE / "demo.png", optimize=True)


if __name__ == "__main__":
    main()
