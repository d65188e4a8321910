"""CLIP's loss (Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", figure 3).

Anchor:     a picture of this rank; and then, the other way round, a caption of this rank.
Positive:   its caption; its picture.
Negatives:  all other captions, or pictures, in the batch, on all ranks.

Shapes: b pairs on this rank, B on all ranks, E embedding width.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from errors import BadInput
from objectives.gather import first_own_row, gather_candidates, need_two
from objectives.simclr import at_least_float32
from ranges import ShareAbove0


@dataclass(frozen=True)
class InfoNCE:
    """The symmetric loss with a learned temperature.

    Attributes:
        temperature: of the softmax, at the start.
        lowest_temperature: to which it is clamped after each step; the logits are then at most 1 / lowest_temperature.
    """

    temperature: ShareAbove0 = 0.07
    lowest_temperature: ShareAbove0 = 0.01
    initial_bias: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not 0 < self.lowest_temperature <= self.temperature <= 1:
            raise BadInput(
                "objective.loss needs 0 < lowest_temperature <= temperature <= 1, "
                f"not {self.lowest_temperature} and {self.temperature}"
            )

    @property
    def initial_scale(self) -> float:
        return -math.log(self.temperature)

    @property
    def largest_scale(self) -> float:
        return -math.log(self.lowest_temperature)

    def __call__(
        self, image_bE: Tensor, text_bE: Tensor, logit_scale: Tensor, logit_bias: None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, accuracy = info_nce(image_bE, text_bE, logit_scale)
        return loss, {"accuracy": accuracy}


def info_nce(image_bE: Tensor, text_bE: Tensor, logit_scale: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of two cross-entropies, over the captions for each picture and over the pictures for each caption.

    Computed in float32 whatever the autocast precision. The mean over ranks of the gradient is that of the whole batch.

    Shape:
        image_bE, text_bE: (b, E) unit vectors of pairs in the same order; b >= 2 over all ranks.
        logit_scale: (1,), the log of what the cosines are multiplied by.

    Returns:
        (loss, accuracy): scalars; accuracy is the share of pictures whose own caption scores highest, detached.
    """
    with torch.autocast(image_bE.device.type, enabled=False):
        image_bE, text_bE = at_least_float32(image_bE), at_least_float32(text_bE)
        b = len(image_bE)
        image_BE, text_BE = gather_candidates(image_bE), gather_candidates(text_bE)
        need_two(len(text_BE))
        scale = logit_scale.exp()
        own = torch.arange(b, device=image_bE.device) + first_own_row(b)
        by_image_bB = scale * image_bE @ text_BE.T
        by_text_bB = scale * text_bE @ image_BE.T
        accuracy = (by_image_bB.detach().argmax(1) == own).float().mean()
        return (F.cross_entropy(by_image_bB, own) + F.cross_entropy(by_text_bB, own)) / 2, accuracy
