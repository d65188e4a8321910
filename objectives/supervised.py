"""Supervised classification: the reference for everything else, on the same backbone, order and budget.

Input:  one augmented view of a picture.
Target: its label, by cross-entropy with label smoothing (Szegedy et al. 2016, section 7).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.classifier import Classifier
from models.encoder import Encoder
from objectives.draw import Draw
from objectives.objective import Batch, Objective, Outcome
from objectives.pictures import gallery
from objectives.targets import in_parts
from objectives.views import Crops, CropScale
from ranges import Share


class Supervised(Objective):
    """Cross-entropy on labels.

    Args:
        encoder: any image encoder; its pooled features enter one linear layer.
        spec: the opened data set; it must have labels.
        label_smoothing: share of the target spread over all classes.
        crop_scale: area range of the random resized crop.
        mix: probability that a picture is mixed by CutMix or, as often, Mixup; 0 is off. Right is then the larger share.
    """

    modality = "image"
    needs = ("views", "label")

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        label_smoothing: Share = 0.1,
        crop_scale: CropScale = (0.35, 1.0),
        mix: Share = 0.0,
    ):
        super().__init__(encoder)
        self.label_smoothing, self.mix = label_smoothing, mix
        self.crops = Crops(spec.image_size, scale=tuple(crop_scale))
        self.head = Classifier(encoder.width, spec.class_names)

    def views(self) -> Crops:
        return self.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        images, label = batch["views"][:, 0], batch["label"]
        target = F.one_hot(label, self.head.out_features).float()
        if self.mix > 0:
            if in_parts():
                raise BadInput("trainer.accumulate would change which pictures of a step are mixed; take mix=0")
            images, target = mix_pairs(images.float().div(255), target, draw, self.mix)
        logits = self.head(self.encoder.embed(self.encoder.normalise(images))).float()
        loss = F.cross_entropy(logits, target, label_smoothing=self.label_smoothing)
        return Outcome(loss, {"accuracy": (logits.detach().argmax(1) == target.argmax(1)).float().mean()})

    def exports(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "classifier": self.head}

    def classify(self, batch: Batch) -> Tensor:
        """(B, classes) scores."""
        return self.head(self.encoder.embed(self.encoder.inputs(batch)))

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """The augmented pictures."""
        return {"views": gallery(batch["views"][:, 0])}


def mix_pairs(images: Tensor, target: Tensor, draw: Draw, probability: float) -> tuple[Tensor, Tensor]:
    """Each sample is mixed with the one before it in the batch, by CutMix (alpha 1) or Mixup (alpha 0.8) as often.

    Yun et al. 2019, section 3.1; Zhang et al. 2018, section 2. Every sample has parameters of its own.

    Shape: images (B, C, H, W) floats, target (B, classes); both come back mixed.
    """
    height, width = images.shape[-2:]
    noise = draw.uniform("mix", 5)
    mixed, cut = noise[:, 0] < probability, noise[:, 1] < 0.5
    share = torch.where(cut, noise[:, 2], _beta_like(noise[:, 2]))  # of the own picture
    side = (1 - share).sqrt()
    top, left = noise[:, 3] * (1 - side), noise[:, 4] * (1 - side)
    row = (torch.arange(height, device=images.device) + 0.5) / height
    column = (torch.arange(width, device=images.device) + 0.5) / width
    in_rows = (row >= top[:, None]) & (row < (top + side)[:, None])
    in_columns = (column >= left[:, None]) & (column < (left + side)[:, None])
    box = (in_rows[:, :, None] & in_columns[:, None, :]).float()
    share = torch.where(cut, 1 - box.mean((1, 2)), share)
    share = torch.where(mixed, share, 1.0)
    own = torch.where(cut[:, None, None], 1 - box, share[:, None, None])
    own = torch.where(mixed[:, None, None], own, 1.0)[:, None]
    share = share[:, None]
    return images * own + images.roll(1, 0) * (1 - own), target * share + target.roll(1, 0) * (1 - share)


def _beta_like(uniform: Tensor) -> Tensor:
    """A draw from Beta(0.8, 0.8) by inverting its distribution function on a fine grid."""
    grid = torch.linspace(0, 1, 1025, device=uniform.device, dtype=torch.float64)
    middle = (grid[1:] + grid[:-1]) / 2
    density = (middle * (1 - middle)) ** (0.8 - 1)
    cumulative = torch.cat([density.new_zeros(1), density.cumsum(0) / density.sum()]).float()
    place = torch.searchsorted(cumulative, uniform.contiguous(), right=True).clamp(1, 1024)
    low, high = cumulative[place - 1], cumulative[place]
    return grid[place - 1].float() + (uniform - low) / (high - low) / 1024
