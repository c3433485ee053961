"""FNAC's training step as the published repositories write one: float32, channels first, eager.

Two torchvision ResNet-18, the sound's with one input channel, its grid max-pooled; 1x1 projections to 512; EZ-VSL's
loss and FNAC's three distances (shared notation: S, A, F, V̄); Adam with its decay in the gradient; the losses are read
after every step. Dropout is left out, as its draws would make the curves differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18

TAU, FOREGROUND, WEIGHT = 0.03, 0.6, 100.0


class NaiveFNAC(nn.Module):
    """Frames (B, 3, H, W) and spectrograms (B, 1, F, T) to the loss and its four terms."""

    def __init__(self, dim: int = 512) -> None:
        super().__init__()
        self.imgnet = resnet18()
        self.imgnet.avgpool = nn.Identity()
        self.imgnet.fc = nn.Identity()
        self.img_proj = nn.Conv2d(512, dim, 1)
        self.audnet = resnet18()
        self.audnet.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.audnet.avgpool = nn.AdaptiveMaxPool2d((1, 1))
        self.audnet.fc = nn.Identity()
        self.aud_proj = nn.Linear(512, dim)

    def take(self, localizer: nn.Module) -> None:
        """Start from the weights of a localizer with ResNet-18 encoders."""
        found = localizer.state_dict()
        for part, prefix in (
            (self.imgnet, "image.backbone."),
            (self.audnet, "audio.backbone."),
            (self.img_proj, "image.lateral.0."),
            (self.aud_proj, "audio.head."),
        ):
            part.load_state_dict({k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)})

    def forward(self, frames: Tensor, sounds: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss with all terms, as after the warm-up."""
        side = frames.shape[-1] // 32
        visual = F.normalize(self.img_proj(self.imgnet(frames).view(-1, 512, side, side)), dim=1)
        audio = F.normalize(self.aud_proj(self.audnet(sounds)), dim=1)
        maps = torch.einsum("nchw,mc->nmhw", visual, audio)
        scores = maps.flatten(-2).max(dim=-1)[0]
        labels = torch.arange(len(frames))
        contrastive = F.cross_entropy(scores / TAU, labels) + F.cross_entropy(scores.permute(1, 0) / TAU, labels)

        own = torch.einsum("nchw,nc->nhw", visual, audio).flatten(1)
        low, high = own.min(1, keepdim=True)[0], own.max(1, keepdim=True)[0]
        mask = ((own - low) / (high - low + 1e-5) > FOREGROUND).float()
        sounding = torch.einsum("nchw,nhw->nc", visual, mask.view(-1, side, side)) / mask.shape[1]
        seen = visual.mean(dim=(2, 3))
        relations = {"s": scores, "aa": audio @ audio.T, "ff": sounding @ sounding.T, "vv": seen @ seen.T}
        soft = {name: torch.softmax(relation / TAU, dim=1) for name, relation in relations.items()}
        terms = {
            "contrastive": contrastive,
            "fns_audio": F.l1_loss(soft["aa"], soft["s"]),
            "tns": F.l1_loss(soft["aa"], soft["ff"]),
            "fns_image": F.l1_loss(soft["vv"], soft["s"]),
        }
        return contrastive + WEIGHT * (terms["fns_audio"] + terms["tns"] + terms["fns_image"]), terms


class NaiveTraining:
    """Its training, one batch at a time.

    Args:
        model: to be trained.
    """

    def __init__(self, model: NaiveFNAC) -> None:
        self.model = model.train()
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-4)

    def step(self, frames: Tensor, sounds: Tensor) -> float:
        """Train on a batch; its loss before."""
        loss, terms = self.model(frames, sounds)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for term in terms.values():
            term.item()
        return float(loss.item())
