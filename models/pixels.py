"""Raw pixels as features: the baseline below every encoder. `python finetune.py checkpoint=none model=pixels`."""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder, Features


class Pixels(Encoder):
    """The picture itself, flattened; nothing in it is learned, so there is nothing to pre-train or to export."""

    modality = "image"

    def __init__(self, spec: DataSpec):
        super().__init__()
        self.width = spec.channels * spec.image_size**2
        self.register_buffer("highest", torch.tensor([255.0]), persistent=False)

    @property
    def blocks(self) -> list[nn.Module]:
        return []

    def layers(self) -> dict[str, int]:
        return {name: 0 for name, _ in self.named_parameters()}

    def set_drop_path(self, rate: float) -> None:
        """There are no blocks to drop."""

    def inputs(self, batch: dict[str, Tensor]) -> Tensor:
        return self.normalise(batch["views"][:, 0])

    def normalise(self, inputs: Tensor) -> Tensor:
        """From uint8 to [-0.5, 0.5]: around 0, or the cosine of two pictures would only compare how bright they are."""
        return inputs / self.highest - 0.5 if inputs.dtype == torch.uint8 else inputs

    def forward(self, inputs: Tensor, keep: Tensor | None = None) -> Features:
        pixels_BD = inputs.flatten(1)
        return Features(pixels_BD[:, None], pixels_BD, pixels_BD[:, None][:, :0])

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        raise BadInput("model=pixels has nothing to pre-train; it is a baseline for finetune.py checkpoint=none")
