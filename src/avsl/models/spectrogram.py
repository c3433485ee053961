"""The spectrogram encoder: any image network on a spectrogram."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from avsl.models.backbone import make_backbone
from avsl.models.encoding import AudioEncoder, AudioEncoding
from avsl.models.front_ends import LogMel, LogMelConfig, LogSpectrogram, LogSpectrogramConfig
from avsl.schema import ConfigError, StrictConfig
from avsl.types import FrontEnd, Outputs


class SpectrogramEncoderConfig(StrictConfig):
    """A timm network on spectrograms.

    Attributes:
        kind: name of the audio encoder.
        backbone: name of any timm network.
        backbone_args: arguments for timm, such as widths.
        front_end: the log-mel spectrogram.
        log_spectrogram: the published log-spectrogram, which replaces the log-mel spectrogram; None for none.
        project: whether to add a linear layer, which LVS does not have.
        last_stride: stride of a ResNet's last stage; 1 doubles its grid without dilation (LVS).
        dropout: share of the pooled features dropped in training.
        frozen: whether the backbone is not trained.
    """

    kind: Literal["spectrogram"] = "spectrogram"
    backbone: str = "resnet18"
    backbone_args: dict[str, Any] = Field(default_factory=dict)
    front_end: LogMelConfig = LogMelConfig()
    log_spectrogram: LogSpectrogramConfig | None = None
    project: bool = True
    last_stride: Literal[1, 2] = 2
    dropout: float = Field(0.0, ge=0, lt=1)
    frozen: bool = False


class SpectrogramEncoder(AudioEncoder):
    """Spectrogram (B, 1, F, T) to an embedding: last stage, maximum over the grid, linear layer."""

    TRUNK = ("backbone",)

    def __init__(self, config: SpectrogramEncoderConfig, dim: int) -> None:
        super().__init__(config)
        self.front_end = make_spectrogram(config)
        self.backbone, (self.code_dim,) = make_backbone(
            "model.audio",
            config.backbone,
            last_stride=config.last_stride,
            pretrained=False,
            in_chans=1,
            num_classes=0,
            global_pool="",
            **config.backbone_args,
        )
        self.freeze_if_asked()
        if not config.project and self.code_dim != dim:
            raise ConfigError(f"model.audio.project: {config.backbone} has {self.code_dim} channels, not {dim}")
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(self.code_dim, dim) if config.project else nn.Identity()

    def trunk(self, inputs: Tensor) -> Outputs:
        """Features of the front end, (B, 1, F, T), to their maximum over the grid, (B, K)."""
        return (self.backbone(inputs).amax((-2, -1)),)

    def embed(self, outputs: Outputs) -> AudioEncoding:
        """Project the maximum, with dropout."""
        code: Tensor = self.dropout(outputs[0])
        return AudioEncoding(self.head(code), code)


def make_spectrogram(config: SpectrogramEncoderConfig) -> FrontEnd:
    """Make the front end that a section describes."""
    if config.log_spectrogram is not None:
        return LogSpectrogram(config.log_spectrogram)
    return LogMel(config.front_end)
