"""The pre-training objectives on pictures that the tests share, small, and a batch as their own views make it."""

from functools import partial

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from datamodules.images import ImageData
from datamodules.samples import Pictures
from datamodules.spec import DataSpec
from models.encoder import Encoder, Features
from models.timm_encoder import TimmEncoder
from objectives.autoencoder import Autoencoder
from objectives.bottleneck import Gaussian, Vector
from objectives.byol import BYOL
from objectives.codebook import Codebook
from objectives.corruption import Hole, Noise, Nothing
from objectives.dino import DINO
from objectives.moco_v2 import MoCoV2
from objectives.moco_v3 import MoCoV3
from objectives.objective import Batch, Objective
from objectives.simclr import SimCLR
from objectives.triplet import Triplet
from objectives.vicreg import VICReg

NARROW = {"projector_width": 32, "embedding_width": 16}
OBJECTIVES = {
    "simclr": partial(SimCLR, **NARROW),
    "moco_v2": partial(MoCoV2, queue_size=24, **NARROW),
    "moco_v3": partial(MoCoV3, **NARROW),
    "byol": partial(BYOL, **NARROW),
    "dino": partial(DINO, num_prototypes=40, head_width=32, bottleneck_width=16, num_local=3),
    "vicreg": partial(VICReg, expander_width=32),
    "triplet": partial(Triplet, **NARROW),
    "denoising": partial(Autoencoder, corruption=Noise(), bottleneck=Vector, decoder_width=16),
    "inpainting": partial(Autoencoder, corruption=Hole(), bottleneck=Vector, decoder_width=16),
    "variational": partial(Autoencoder, corruption=Nothing(), bottleneck=partial(Gaussian, width=8), decoder_width=16),
}
OBJECTIVES["vector_quantised"] = partial(
    Autoencoder, corruption=Nothing(), bottleneck=partial(Codebook, num_codes=12, width=4), decoder_width=16
)
WITH_TEACHER = ("moco_v2", "moco_v3", "byol", "dino")


def picture(index: int, size: int = 40, channels: int = 3) -> PIL.Image.Image:
    """Smooth colours that differ from picture to picture."""
    coarse = np.random.default_rng(index).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((size, size), PIL.Image.BICUBIC).convert("RGB" if channels == 3 else "L")


def made_data(size: int = 32, channels: int = 3, batch_size: int = 8, num: int = 48) -> ImageData:
    pictures = Pictures(partial(picture, channels=channels), num, np.arange(num) % 3)
    return ImageData("made", {"train": pictures}, ["a", "b", "c"], size, batch_size, 0.2, channels=channels)


class TinyEncoder(Encoder):
    """Two convolutions with batch norm, for tests that train."""

    modality = "image"
    width = 32

    def __init__(self, spec: DataSpec):
        super().__init__()
        convolutions = [nn.Conv2d(spec.channels, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()]
        self.net = nn.Sequential(*convolutions, nn.Conv2d(16, self.width, 3, 2, 1), nn.BatchNorm2d(self.width), nn.ReLU())

    def takes(self, image_size: int) -> bool:
        return True

    def set_drop_path(self, rate: float) -> None:
        """There is none."""

    def normalise(self, inputs: Tensor) -> Tensor:
        return 2 * inputs - 1

    def forward(self, inputs: Tensor, keep: Tensor | None = None) -> Features:
        maps = self.net(inputs)
        return Features(maps.flatten(2).mT, maps.mean(dim=(2, 3)), maps.flatten(2).mT[:, :0])


def encoder_of(kind: str, spec: DataSpec) -> Encoder:
    torch.manual_seed(0)
    if kind == "vit":
        return TimmEncoder(spec, "vit_tiny_patch16_224", depth=1, positions="sincos")
    if kind == "resnet":
        return TimmEncoder(spec, "resnet18", settings={"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 64)})
    return TinyEncoder(spec)


def batch_of(objective: Objective, data: ImageData, seed: int = 0) -> Batch:
    return next(iter(data.train_loader(objective.views(), seed, num_batches=1)))
