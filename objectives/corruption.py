"""What an autoencoder's input hides of the picture.

Shapes: B pictures, C channels, H = W image size. Pictures are floats in [0, 1].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from errors import BadInput
from objectives.draw import Draw
from ranges import OpenShare, Positive

GREY = 0.5


@dataclass(frozen=True)
class Nothing:
    """The input is the picture, and all of it must be rebuilt."""

    def __call__(self, pictures: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """(input (B, C, H, W), where it must be rebuilt (B, 1, H, W) as 0 and 1)."""
        return pictures, torch.ones_like(pictures[:, :1])


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on every pixel; all of the picture must be rebuilt (Vincent et al. 2010, section 3.2).

    Args:
        std: of the noise, where pixels lie between 0 and 1.
    """

    std: Positive = 0.25

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise BadInput(f"objective.corruption.std must be above 0, not {self.std}")

    def __call__(self, pictures: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """As `Nothing`."""
        return pictures + self.std * draw.normal("noise", *pictures.shape[1:]), torch.ones_like(pictures[:, :1])


@dataclass(frozen=True)
class Hole:
    """A grey square at a random place; only what it hides must be rebuilt (Pathak et al. 2016, section 3.2).

    Args:
        share: of the picture's area; the side is rounded to whole pixels.
    """

    share: OpenShare = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise BadInput(f"objective.corruption.share must lie between 0 and 1, not {self.share}")

    def __call__(self, pictures: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """As `Nothing`."""
        size = pictures.shape[-1]
        side = max(1, round(self.share**0.5 * size))
        first_B2 = draw.integers("hole", size - side + 1, 2)[:, :, None]
        place = torch.arange(size, device=pictures.device)
        inside_B2S = (place >= first_B2) & (place < first_B2 + side)
        hole = (inside_B2S[:, 0, :, None] & inside_B2S[:, 1, None, :])[:, None].to(pictures.dtype)
        return torch.lerp(pictures, torch.full_like(pictures, GREY), hole), hole
