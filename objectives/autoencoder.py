"""Autoencoders: a picture is rebuilt from its features.

Input:   the picture with Gaussian noise (denoising: Vincent et al. 2010), with a square cut out (inpainting: Pathak et al.
         2016), or as it is (variational: Kingma and Welling 2014; vector-quantised: van den Oord et al. 2017).
Passes:  the pooled features, a sample of a normal distribution around them (variational), or for every token the nearest
         entry of a codebook (vector-quantised), to a small decoder.
Target:  the pixels, where the corruption says that they count. The loss is their negative log-likelihood under a normal
         distribution of fixed width plus what the code costs, in nats for each pixel value that counts; the
         variational choice makes it the negative evidence lower bound.

Shapes: B pictures, C channels, H = W image size.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder
from models.export import read_part
from models.weights import load_strictly
from objectives.bottleneck import Bottleneck, Code
from objectives.codebook import Codebook
from objectives.draw import Draw
from objectives.objective import Batch, Objective, Outcome
from objectives.pictures import tile
from objectives.views import Crops, CropScale
from ranges import Count, Positive

SMALLEST = 9  # the decoder begins with a grid of at most this side and doubles it
NARROWEST = 16  # channels


class Autoencoder(Objective):
    """An autoencoder.

    Args:
        encoder: any image encoder; its pooled features enter the bottleneck.
        spec: the opened data set.
        corruption: (pictures, draw) -> (input, where it must be rebuilt), one of `corruption.py`.
        bottleneck: (encoder, channels, side) -> module from `bottleneck.py` or `codebook.py`.
        pixel_std: of the normal distribution around the rebuilt pixels, which lie between 0 and 1. It weighs pixels against
            what the code costs; where that is free it only scales the loss, which Adam does not see but SGD and clipping do.
        decoder_width: channels of the decoder's first, smallest grid; each doubling of the side halves them, down to 16.
        crop_scale: area range of the random resized crop, the only augmentation besides the flip.
    """

    modality = "image"
    needs = ("views",)

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        corruption: Callable[[Tensor, Draw], tuple[Tensor, Tensor]],
        bottleneck: Callable[..., Bottleneck],
        pixel_std: Positive = 0.1,
        decoder_width: Count = 128,
        crop_scale: CropScale = (0.2, 1.0),
    ):
        super().__init__(encoder)
        if pixel_std <= 0:
            raise BadInput(f"objective.pixel_std must be above 0, not {pixel_std}")
        if decoder_width < NARROWEST:
            raise BadInput(f"objective.decoder_width must be {NARROWEST} or more, not {decoder_width}")
        self.corruption, self.pixel_std = corruption, pixel_std
        self.crops = Crops(spec.image_size, scale=tuple(crop_scale))
        self.decoder = Decoder(decoder_width, spec.image_size, spec.channels)
        self.bottleneck = bottleneck(encoder, decoder_width, self.decoder.sides[0])

    def views(self) -> Crops:
        return self.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        pictures = batch["views"][:, 0].float().div(255)
        seen, counts = self.corruption(pictures, draw)
        code = self.encode(seen, draw)
        rebuilt = self.decoder(code.grid_BWSS).float()
        counts = counts.expand_as(pictures)
        nats_B = (pixel_nats(pictures, rebuilt, self.pixel_std) * counts).sum(dim=(1, 2, 3))
        error = ((rebuilt.detach() - pictures).square() * counts).sum() / counts.sum()
        return Outcome((nats_B + code.nats_B).sum() / counts.sum(), {"squared_error": error, **code.report})

    def after_step(self, progress: float) -> None:
        self.bottleneck.after_step()

    def exports(self) -> dict[str, nn.Module]:
        """The encoder, and where pictures become whole numbers what makes pictures of them again."""
        codes = {"picture_codes": PictureCodes(self.bottleneck, self.decoder)} if isinstance(self.bottleneck, Codebook) else {}
        return {"encoder": self.encoder} | codes

    def encode(self, seen: Tensor, draw: Draw) -> Code:
        return self.bottleneck(self.encoder(self.encoder.normalise(seen)), draw)

    @torch.no_grad()
    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """Rows of (picture, what the encoder saw, the rebuilt picture)."""
        pictures = batch["views"][:, 0].float().div(255)
        seen, _ = self.corruption(pictures, draw)
        rebuilt = self.decoder(self.encode(seen, draw).grid_BWSS).float()
        return {"reconstructions": tile(torch.stack([pictures, seen, rebuilt], dim=1).clamp(0, 1))}


class Decoder(nn.Module):
    """From a small grid to pixels: nearest-neighbour enlargement to twice the side and a convolution, again and again.

    There is no norm in it: group and layer norms took the pictures' own brightness out, and only their mean was learned.

    Attributes:
        sides: of the grids, the first one's and the last one's (the image size) included.
    """

    def __init__(self, width: int, image_size: int, channels: int):
        super().__init__()
        self.sides = [image_size]
        while self.sides[0] > SMALLEST:
            self.sides.insert(0, math.ceil(self.sides[0] / 2))
        widths = [max(NARROWEST, width >> i) for i in range(len(self.sides))]
        inside = [width, *widths[:-1]]
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.GELU())
            for before, after in zip(inside, widths, strict=True)
        )
        self.pixels = nn.Conv2d(widths[-1], channels, 3, padding=1)
        nn.init.constant_(self.pixels.bias, 0.5)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, width, S, S) of any S -> (B, C, H, W), around [0, 1]."""
        for side, stage in zip(self.sides, self.stages, strict=True):
            grid = stage(F.interpolate(grid, size=(side, side)))
        return self.pixels(grid)


class PictureCodes(nn.Module):
    """A codebook and the decoder behind it: from an encoder's tokens to whole numbers, and from these to pictures."""

    modality = "image"

    def __init__(self, codebook: Codebook, decoder: Decoder):
        super().__init__()
        self.codebook, self.decoder = codebook, decoder

    @classmethod
    def load(cls, run: str | Path, encoder: Encoder) -> "PictureCodes":
        """What a run of objective=vector_quantised_autoencoder left, beside its encoder.

        Raises:
            BadInput: there is no such thing, or it does not belong to the encoder.
        """
        recipe, weights = read_part(run, "picture_codes")
        decoder = Decoder(recipe["decoder_width"], recipe["image_size"], recipe["channels"])
        codebook = Codebook(encoder, recipe["decoder_width"], decoder.sides[0], recipe["num_codes"], recipe["width"])
        codes = cls(codebook, decoder)
        load_strictly(codes, weights, f"the codebook of '{run}'")
        return codes

    def pictures(self, ids_BN: Tensor) -> Tensor:
        """(B, N) whole numbers -> (B, C, H, W) in [0, 1]."""
        return self.decoder(self.codebook.grid(ids_BN)).float().clamp(0, 1)

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(weights, what is needed to build it again), as encoders say theirs."""
        recipe = {
            "library": "headstart",
            "name": "picture_codes",
            "num_codes": len(self.codebook.codes_KZ),
            "width": self.codebook.codes_KZ.shape[1],
            "decoder_width": self.codebook.spread.out_features,
            "image_size": self.decoder.sides[-1],
            "channels": self.decoder.pixels.out_channels,
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}, recipe


def pixel_nats(pictures: Tensor, rebuilt: Tensor, std: float) -> Tensor:
    """Negative log-density of the pixels under normal distributions around the rebuilt ones, elementwise, in nats."""
    return (pictures - rebuilt).square() / (2 * std**2) + math.log(std * math.sqrt(2 * math.pi))
