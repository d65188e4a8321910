"""Two augmented views of each picture: crops in the data workers, colours on the training device."""

import torch
from torch import Tensor

from datamodules.spec import DataSpec
from models.encoder import Encoder
from objectives.draw import Draw
from objectives.objective import Batch
from objectives.photometry import Photometry, floats
from objectives.pictures import tile
from objectives.views import Crops, CropScale, view_side


class TwoViews:
    """How the two views are made.

    Args:
        encoder: that will read them.
        spec: the opened data set.
        crop_scale: area range of the random resized crop.
        view_size: side of the views in pixels; None is the image size.
        colours: of the first and of the second view.
    """

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        crop_scale: CropScale,
        view_size: int | None,
        colours: tuple[Photometry, Photometry],
    ):
        self.crops = Crops(view_side("view_size", view_size, encoder, spec), num=2, scale=tuple(crop_scale))
        self.colours = colours

    def __call__(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """The first and the second view, each (b, C, H, W) in [0, 1]."""
        first, second = (colour(floats(batch["views"][:, i]), draw, i) for i, colour in enumerate(self.colours))
        return first, second

    @torch.no_grad()
    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """Rows of (first view, second view) as the encoder sees them."""
        return {"views": tile(torch.stack(self(batch, draw), dim=1))}
