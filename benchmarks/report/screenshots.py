"""The README's pictures of the report and of MLflow's comparison, from what `make repro` left.

``make ui`` must be running beside it. Usage: ``python -m benchmarks.report.screenshots [--outputs DIR] [--ui ADDRESS]``
writes ``report.png`` and ``mlflow.png`` beside this file; a Chromium must be installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from playwright.sync_api import sync_playwright

_HERE = Path(__file__).parent


def main() -> None:
    """Open both pages and photograph them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--outputs", type=Path, default=Path("outputs/synthetic"), help="default: %(default)s")
    parser.add_argument("--ui", default="http://127.0.0.1:5000", help="where `make ui` runs (default: %(default)s)")
    parser.add_argument("--ratio", type=float, default=0.1, help="whose runs are compared (default: %(default)s)")
    options = parser.parse_args()
    report = options.outputs / "report" / "report.html"
    trained = sorted((options.outputs / "train" / str(options.ratio)).glob("*/*/run.json"))
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None or not report.is_file() or not trained:
        parser.error(f"needs a Chromium, {report} and the trainings of ratio {options.ratio}: run `make repro` first")
    seeds = [MlflowClient(options.ui).get_run(json.loads(path.read_text())["run_id"]) for path in trained]
    # The parents: one run for each cell, with the means over its seeds.
    runs = sorted({run.data.tags["mlflow.parentRunId"] for run in seeds})
    experiment = seeds[0].info.experiment_id
    compare = f"compare-runs?runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([experiment]))}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 1400})
        page.goto(report.resolve().as_uri())
        page.screenshot(path=_HERE / "report.png")
        page.set_viewport_size({"width": 1600, "height": 900})
        page.goto(f"{options.ui}/#/{compare}&workflowType=machine_learning")
        page.get_by_text("Run Name:").wait_for()
        page.locator(".axis-title").first.wait_for()
        page.screenshot(path=_HERE / "mlflow.png")
        browser.close()


if __name__ == "__main__":
    main()
