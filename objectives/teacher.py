"""A teacher: a copy of the encoder and its head whose weights are an exponential moving average of theirs."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.encoder import Encoder


class Teacher(nn.Module):
    """Follows an encoder and a head; it is part of the state dict, so a resumed run goes on with the same teacher.

    It runs without gradient, dropout and stochastic depth.

    Args:
        encoder, head: what is copied, and later followed.
        norm: what its batch norms normalise by. "batch": by the statistics of its own batches, as BYOL, DINO and MoCo v3
            have it. "average": by running statistics that are the moving average of the student's (Cai et al. 2021,
            "Exponential Moving Average Normalization for Self-supervised and Semi-supervised Learning", section 3.2); a
            batch then cannot leak which pictures are in it, so nothing needs to be shuffled.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, norm: str = "batch"):
        super().__init__()
        self.norm = norm
        self.encoder, self.head = copy.deepcopy(encoder), copy.deepcopy(head)
        self.encoder.set_drop_path(0.0)
        self.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Teacher":
        """Evaluation mode always, but for batch norms that use their batch while the objective trains."""
        super().train(False)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.training = mode and self.norm == "batch"
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) normalised pictures -> (B, E), what the head makes of the pooled features."""
        return self.head(self.encoder.embed(images))

    @torch.no_grad()
    def follow(self, encoder: Encoder, head: nn.Module, momentum: float) -> None:
        """Move every weight: momentum x its own + (1 - momentum) x the student's."""
        for own, theirs in ((self.encoder, encoder), (self.head, head)):
            for mine, new in zip(own.parameters(), theirs.parameters(), strict=True):
                mine.lerp_(new, 1 - momentum)
            if self.norm == "average":
                for mine, new in zip(own.buffers(), theirs.buffers(), strict=True):
                    if mine.is_floating_point():
                        mine.lerp_(new, 1 - momentum)
                    else:  # counts of batches
                        mine.copy_(new)
