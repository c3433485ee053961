"""Published checkpoints of EZ-VSL, FNAC, LVS, SLAVC and SSPL as localizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avsl.models.audio import SpectrogramEncoderConfig, VGGishEncoderConfig
from avsl.models.coding import PredictiveCodingConfig
from avsl.models.export import check_finite
from avsl.models.front_ends import LogSpectrogramConfig
from avsl.models.image import ImageEncoderConfig
from avsl.models.localizer import Localizer, LocalizerConfig
from avsl.models.weights.pickles import read_state_dict
from avsl.schema import ConfigError, lookup

# Parameters that no published model has; they keep their defaults.
_OURS = ("log_scale", "offset")


@dataclass(frozen=True)
class _Published:
    """A published network as a localizer.

    Attributes:
        config: the equivalent localizer.
        sources: prefixes of names in its file by prefixes of ours; the first match counts. Several source tensors
            are stacked along the first axis.
        leftovers: prefixes of tensors in the file that the network never uses.
    """

    config: LocalizerConfig
    sources: Sequence[tuple[str, tuple[str, ...]]]
    leftovers: tuple[str, ...] = ()

    def names(self, ours: str) -> list[str]:
        """The names in the file of the tensor ``ours``."""
        for prefix, sources in self.sources:
            if ours.startswith(prefix):
                return [source + ours.removeprefix(prefix) for source in sources]
        raise KeyError(ours)


def load_published(method: str, paths: Sequence[Path], *, momentum: bool = False) -> Localizer:
    """Read a published checkpoint.

    No code in a file is executed; a file with other objects than tensors and plain containers is refused. Scale and
    offset of the confidence, which the published models do not have, keep their defaults.

    Args:
        method: a key of :data:`PUBLISHED`.
        paths: its file or files.
        momentum: whether to take SLAVC's momentum encoders instead of the trained ones (``use_mom_eval``).

    Returns:
        The localizer in evaluation mode; ``config`` describes it.

    Raises:
        ConfigError: the method is unknown or has no momentum encoders, no file is named, one cannot be read or is
            refused, or the tensors are not the method's or not finite; names the file and every missing and unexpected
            tensor.
    """
    describe = lookup(method, PUBLISHED, "published method")
    if not paths:
        raise ConfigError(f"no file of a published {method} model is named")
    if momentum and method != "slavc":
        raise ConfigError(f"a published {method} model has no momentum encoders; only slavc has")
    found: dict[str, Tensor] = {}
    for path in paths:
        for name, tensor in read_state_dict(path).items():
            if name in found:
                raise ConfigError(f"{path}: '{name}' came with another file already")
            found[name] = tensor
    published: _Published = describe(found, momentum)
    model = Localizer(published.config)
    where = ", ".join(map(str, paths))
    check_finite(found, where)
    model.load_state_dict(_convert(published, model.state_dict(), found, f"{where} is no {method} checkpoint"))
    return model.eval()


def _convert(
    published: _Published, ours: Mapping[str, Tensor], found: Mapping[str, Tensor], failure: str
) -> dict[str, Tensor]:
    """The state dict of a localizer like ``ours``, taken from ``found``.

    Raises:
        ConfigError: the two do not match; the message starts with ``failure`` and names every mismatch.
    """
    converted = {name: ours[name] for name in _OURS}
    used: set[str] = set()
    problems = []
    for name, like in ours.items():
        if name in _OURS:
            continue
        names = published.names(name)
        used.update(names)
        if absent := [source for source in names if source not in found]:
            problems += [f"'{source}' is missing" for source in absent]
            continue
        tensor = found[names[0]] if len(names) == 1 else torch.cat([found[source] for source in names])
        if tensor.shape != like.shape:
            wanted = f"{tuple(tensor.shape)} instead of {tuple(like.shape)}"
            problems.append(f"{' and '.join(map(repr, names))} has shape {wanted}")
        converted[name] = tensor
    rest = sorted(name for name in found if name not in used and not name.startswith(published.leftovers))
    problems += [f"'{name}' is unexpected" for name in rest]
    if problems:
        raise ConfigError(f"{failure}: {', '.join(problems)}")
    return converted


def _resnets(heads: int = 1, **settings: Any) -> LocalizerConfig:
    """Two ResNet-18, on frames and on the published log-spectrogram; with the ``settings`` of both encoders."""
    return LocalizerConfig(
        dim=512,
        heads=heads,
        image=ImageEncoderConfig(**settings),
        audio=SpectrogramEncoderConfig(log_spectrogram=LogSpectrogramConfig(), **settings),
    )


def _ezvsl(found: Mapping[str, Tensor], momentum: bool) -> _Published:
    """EZ-VSL (arXiv 2203.09324) and FNAC (arXiv 2303.11302), which have the same network; 3 s of sound at 16 kHz."""
    sources = (
        ("image.backbone.", ("imgnet.",)),
        ("image.lateral.0.", ("img_proj.",)),
        ("audio.backbone.", ("audnet.",)),
        ("audio.head.", ("aud_proj.",)),
    )
    return _Published(_resnets(), sources)


def _slavc(found: Mapping[str, Tensor], momentum: bool) -> _Published:
    """SLAVC (arXiv 2209.09634): two heads and momentum encoders of the same architecture; 3 s of sound at 16 kHz."""
    before = "momentum_" if momentum else ""
    sources = (
        ("image.backbone.", (f"{before}imgnet.",)),
        ("image.lateral.0.", (f"{before}img_proj1.", f"{before}img_proj2.")),
        ("audio.backbone.", (f"{before}audnet.",)),
        ("audio.head.", (f"{before}aud_proj1.", f"{before}aud_proj2.")),
    )
    other = ("imgnet.", "img_proj", "audnet.", "aud_proj") if momentum else ("momentum_",)
    return _Published(_resnets(heads=2), sources, other)


def _lvs(found: Mapping[str, Tensor], momentum: bool) -> _Published:
    """LVS (arXiv 2104.02691): stride-1 last stages, no projections.

    The published loader computes EZ-VSL's log-spectrogram (512-sample window, hop 238, log(x + 1e-7) / 12) of 20 s of
    sound at the file's sample rate and repeats shorter clips; here the sound is the data set's. Both published networks
    have stems for frames, sound and optical flow and a classifier, of which one stem is used.
    """
    sources = (
        ("image.backbone.", ("imgnet.",)),
        ("audio.backbone.conv1.", ("audnet.conv1_a.",)),
        ("audio.backbone.", ("audnet.",)),
    )
    unused = {"imgnet": ("conv1_a", "conv1_flow", "fc"), "audnet": ("conv1", "conv1_flow", "fc")}
    leftovers = tuple(f"{network}.{layer}." for network, layers in unused.items() for layer in layers)
    return _Published(_resnets(project=False, last_stride=1), sources, leftovers)


# Names in SSPL's file of the predictive coding module, by ours.
_CODING = {
    "predict_code": "PredProcess.0",
    "predict.0": "PredProcess.1.conv2d",
    "predict.1": "PredProcess.2.conv2d",
    "correct.0": "ErrorProcess.0",
    "correct.1": "ErrorProcess.1",
    "correct.2": "ErrorProcess.2.convtrans2d",
    "output": "ErrorProcess.3",
    "down": "b0",
    "up": "a0",
}


def _sspl(found: Mapping[str, Tensor], momentum: bool) -> _Published:
    """SSPL (arXiv 2203.13412): VGG-16 cut before its last ReLU, VGGish, and the coding module if the files hold it.

    It has one file each for frame, sound, coding module and self-supervised head; the last is not used.
    """
    coding = PredictiveCodingConfig() if any(name.startswith("PredProcess.") for name in found) else None
    sources = [("image.backbone.features_", ("feat_extractor.",)), ("audio.", ("",))]
    sources += [(f"coding.{ours}.", (f"{theirs}.",)) for ours, theirs in _CODING.items()]
    if coding is not None:
        # The published module separates the initialization's norms from the cycles'.
        for ours, theirs, layers in (("norm_down", "BNPred", 2), ("norm_up", "BNError", 3)):
            for k in range(layers * (coding.cycles + 1)):
                place = f"{theirs}.{k}." if k < layers else f"{theirs}_step.{k - layers}."
                sources.append((f"coding.{ours}.{k}.", (place,)))
    config = LocalizerConfig(
        dim=512,
        image=ImageEncoderConfig(backbone="vgg16", project=False, before_activation=True, frozen=True),
        audio=VGGishEncoderConfig(frozen=True),
        coding=coding,
    )
    return _Published(config, sources, ("projector.", "predictor."))


# By method: the published network, given the tensors of its file and whether to take the momentum encoders.
PUBLISHED: dict[str, Callable[[Mapping[str, Tensor], bool], _Published]] = {
    "ezvsl": _ezvsl,
    "fnac": _ezvsl,
    "lvs": _lvs,
    "slavc": _slavc,
    "sspl": _sspl,
}
