"""The command ``avsl``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

# Everything else is imported by the command that needs it: torch, Lightning and MLflow take seconds.

_STEPS = {
    "prepare": "make the data set of data=... into prepared shards",
    "split": "draw the labelled rows of one label ratio",
    "train": "train one framework at one label ratio, with an MLflow run",
    "evaluate": "score the trained model on validation and test",
    "register": "give the best candidate of one label ratio the alias 'champion' in the MLflow registry",
    "report": "draw the comparison's tables and figures",
    "run": "prepare, split, train and evaluate in one go",
    "config": "print the configuration that the overrides compose to, as YAML, and do nothing",
}

_PUBLISHED = ("ezvsl", "fnac", "lvs", "slavc", "sspl")

_WHERE = {
    "prepare": ("avsl.engine.prepare", "prepare"),
    "split": ("avsl.engine.prepare", "split"),
    "train": ("avsl.engine.train", "train"),
    "evaluate": ("avsl.engine.evaluate", "evaluate"),
    "register": ("avsl.serving.register", "register"),
    "report": ("avsl.report.tables", "report"),
    "run": ("avsl.engine.workflow", "run"),
}

_EPILOG = """\
examples:
  avsl localize street.mp4                              the champion of 3 % labels, sheet and boxes into ./localized
  avsl localize street.mp4 --ratio 0.1 --out /tmp/seen
  avsl localize street.mp4 --checkpoint exported/model  a model from a folder, no MLflow
  avsl localize street.mp4 --model models:/avsl-synthetic-ratio-1.0@champion
  avsl run framework=dmt split.label_ratio=0.1          one experiment from nothing to its scores
  avsl run experiment=scenes data.vggss.root=FOLDER     the same on a folder in VGG-SS's layout, 5 % labels
  avsl import-checkpoint --from fnac best.pth data=vggss    a published model, scored and registered like ours
  avsl config framework=dmt framework.dmt.delta=0.7         what would be run
  avsl data check vggss FOLDER                          what of a data set is there, missing or broken
  avsl models restore                                   the registry, rebuilt from what `dvc pull` brought

The whole comparison, with everything that depends on a change and nothing else, is `dvc repro` (or `make repro`).
MLflow is the store of MLFLOW_TRACKING_URI, else outputs/mlflow/mlflow.db.
Mistakes in the input are one sentence on stderr and exit code 2.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = argparse.ArgumentParser(
        prog="avsl",
        description="Semi-supervised audio-visual source localisation: which pixels make the sound.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    localize = commands.add_parser(
        "localize",
        help="find the sounding objects in a video",
        description="Find the sounding objects in a video, every second: OUT/<name>.json (boxes) and "
        "OUT/<name>.png (overlays).",
    )
    localize.add_argument("video", type=Path, metavar="VIDEO", help="any file FFmpeg reads, with sound")
    source = localize.add_mutually_exclusive_group()
    source.add_argument("--model", metavar="URI", help="a registered model, models:/NAME@ALIAS or models:/NAME/VERSION")
    source.add_argument(
        "--ratio", type=float, default=0.03, help="the champion of this label ratio (default: %(default)s)"
    )
    source.add_argument("--checkpoint", type=Path, metavar="DIR", help="an exported model folder (model.json)")
    localize.add_argument(
        "--data", default="synthetic", help="the data set that --ratio's champion learned from (default: %(default)s)"
    )
    localize.add_argument("--fps", type=float, default=1.0, help="frames looked at per second (default: %(default)s)")
    localize.add_argument("--out", type=Path, default=Path("localized"), metavar="DIR", help="default: %(default)s")
    published = commands.add_parser(
        "import-checkpoint",
        help="score and register a published checkpoint",
        description="Convert a published checkpoint, choose its threshold on validation, score it, and register it as "
        "a version of avsl-DATA-imported: OUTPUTS/DATA/imported/METHOD. It competes with no model trained here.",
    )
    published.add_argument(
        "--from", dest="method", required=True, choices=_PUBLISHED, metavar="METHOD", help=", ".join(_PUBLISHED)
    )
    published.add_argument("--momentum", action="store_true", help="SLAVC's momentum encoders instead of the trained")
    published.add_argument(
        "words",
        nargs="+",
        metavar="FILE|KEY=VALUE",
        help="its files (SSPL: frame, sound, and the coding module where there is one), and changes to params.yaml, "
        "as data=vggss",
    )
    data = commands.add_parser("data", help="look at a data set on disk", description="Look at a data set on disk.")
    check = data.add_subparsers(dest="action", required=True, metavar="ACTION").add_parser(
        "check",
        help="say what of it is there, missing or broken",
        description="Decode all that a data set's lists name and say, by part, what is missing or broken; nothing is "
        "prepared. Exit code 1 where something is, or where a training list holds rows of a test set.",
    )
    check.add_argument("name", metavar="NAME", help="the data set, as in data=NAME")
    check.add_argument("root", type=Path, metavar="ROOT", help="its folder")
    check.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as data.vggss.test_list=test.csv")
    models = commands.add_parser("models", help="look after the registry", description="Look after the registry.")
    restore = models.add_subparsers(dest="action", required=True, metavar="ACTION").add_parser(
        "restore",
        help="rebuild it from the outputs of the DAG",
        description="Rebuild the registry from the outputs of the DAG, as `dvc pull` brings them: every label ratio "
        "that has been registered gets its champion, by the rules of `register`. Running it again adds nothing.",
    )
    restore.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to params.yaml, as data=vggss")
    for name, text in _STEPS.items():
        step = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        step.add_argument(
            "overrides",
            nargs="*",
            metavar="KEY=VALUE",
            help="changes to params.yaml, as framework=dmt or framework.dmt.delta=0.7",
        )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = build_parser().parse_args(arguments)
    from avsl.engine.entry import call

    if options.command == "localize":
        return call(lambda: _localize(options))
    if options.command == "import-checkpoint":
        return call(lambda: _import_checkpoint(options))
    if options.command == "data":
        complete: list[bool] = []
        return call(lambda: complete.append(_check_data(options))) or int(not all(complete))
    if options.command == "models":
        return call(lambda: _restore(options.overrides))
    return call(lambda: _step(options.command, options.overrides))


def _localize(options: argparse.Namespace) -> None:
    from avsl.serving.localize import load_predictor, localize_video

    predictor, model = load_predictor(
        checkpoint=options.checkpoint, uri=options.model, data=options.data, ratio=options.ratio
    )
    target = localize_video(options.video, predictor, options.out, model=model, frames_per_second=options.fps)
    print(target)
    print(target.with_suffix(".png"))


def _import_checkpoint(options: argparse.Namespace) -> None:
    from avsl.serving.imported import import_checkpoint

    files = [Path(word) for word in options.words if "=" not in word]
    overrides = [word for word in options.words if "=" in word]
    import_checkpoint(options.method, files, overrides, momentum=options.momentum)


def _check_data(options: argparse.Namespace) -> bool:
    from avsl.engine.check import check

    return check(options.name, options.root, options.overrides)


def _restore(overrides: list[str]) -> None:
    from avsl.serving.restore import restore

    restore(overrides)


def _step(command: str, overrides: list[str]) -> None:
    if command == "config":
        import yaml

        from avsl.config import compose

        print(yaml.safe_dump(compose(overrides).model_dump(mode="json"), sort_keys=False), end="")
        return
    module, name = _WHERE[command]
    getattr(importlib.import_module(module), name)(overrides)


if __name__ == "__main__":
    sys.exit(main())
