"""SigLIP's loss (Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", section 3.2).

Anchor:     a picture of this rank.
Target:     for each caption in the batch, on all ranks, whether it is the picture's own: a yes or no of its own, without
            a softmax over the others.

Shapes: b pairs on this rank, B on all ranks, E embedding width.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from objectives.gather import first_own_row, gather_candidates, need_two
from objectives.simclr import at_least_float32
from ranges import Count, Positive


@dataclass(frozen=True)
class SigmoidLoss:
    """The sigmoid loss with a learned temperature and bias.

    Attributes:
        batch_size: B, the global batch.
        temperature: at the start (paper: 0.1).
        bias: at the start. By default log(p / (1 - p)), p = 1 / B: what predicts the share of pairs that belong together.
            The paper's -10 is that of a batch of 22,000, and a bad start for a small one.
    """

    batch_size: Count
    temperature: Positive = 0.1
    bias: float | None = None
    largest_scale: ClassVar[None] = None

    def __post_init__(self) -> None:
        need_two(self.batch_size)

    @property
    def initial_scale(self) -> float:
        return -math.log(self.temperature)

    @property
    def initial_bias(self) -> float:
        return -math.log(self.batch_size - 1) if self.bias is None else self.bias

    def __call__(
        self, image_bE: Tensor, text_bE: Tensor, logit_scale: Tensor, logit_bias: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss, accuracy = sigmoid_loss(image_bE, text_bE, logit_scale, logit_bias)
        return loss, {"accuracy": accuracy, "logit_bias": logit_bias.detach()[0]}


def sigmoid_loss(image_bE: Tensor, text_bE: Tensor, logit_scale: Tensor, logit_bias: Tensor) -> tuple[Tensor, Tensor]:
    """The binary cross-entropies, summed over the captions and averaged over the pictures.

    Computed in float32 whatever the autocast precision. The mean over ranks is the loss of the whole batch.

    Shape:
        image_bE, text_bE: (b, E) unit vectors of pairs in the same order; b >= 2 over all ranks.
        logit_scale, logit_bias: (1,); the logit is exp(logit_scale) cosine + logit_bias.

    Returns:
        (loss, accuracy): scalars; accuracy is the share of pictures whose own caption scores highest, detached.
    """
    with torch.autocast(image_bE.device.type, enabled=False):
        image_bE, text_BE = at_least_float32(image_bE), gather_candidates(at_least_float32(text_bE))
        b = len(image_bE)
        need_two(len(text_BE))
        logits_bB = logit_scale.exp() * image_bE @ text_BE.T + logit_bias
        own = torch.arange(b, device=image_bE.device) + first_own_row(b)
        sign_bB = 2.0 * F.one_hot(own, len(text_BE)) - 1
        accuracy = (logits_bB.detach().argmax(1) == own).float().mean()
        return -F.logsigmoid(sign_bB * logits_bB).sum() / b, accuracy
