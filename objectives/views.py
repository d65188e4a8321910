"""What happens to pictures in a data worker: geometry. It is done where the picture is decoded, at its full size.

Colour changes are in `photometry.py`: they work on whole batches, on the training device.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from PIL.Image import Image, Resampling, Transpose
from torch import Tensor

from datamodules.samples import pixels
from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder
from objectives.draw import Draw
from ranges import ShareAbove0

QUARTERS = (None, Transpose.ROTATE_90, Transpose.ROTATE_180, Transpose.ROTATE_270)  # counterclockwise
MOST_THREADS = 4  # that crop: a quarter of a small crop's time is Python's, which one of them has at a time
CropScale = tuple[ShareAbove0, ShareAbove0]  # the least and the most that a crop takes of the picture's area
ATTEMPTS = 10  # as torchvision: then fall back to the largest centred crop that has an allowed ratio


@dataclass(frozen=True)
class Crops:
    """Random resized crops (Szegedy et al. 2014), each flipped with probability `flip`, and turned.

    Args:
        size: side of the result, in pixels.
        num: V, how many views.
        scale: range of the crop's share of the picture's area, uniform.
        ratio: range of its width / height, log-uniform.
        flip: probability of a horizontal flip.
        quarter_turns: whether each is turned by 0, 90, 180 or 270 degrees, one as likely as the other.
        name: separates the choices of several sets of crops of one picture.

    Raises:
        BadInput: `scale` asks for nothing, or for more than the picture.
    """

    size: int
    num: int = 1
    scale: CropScale = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    quarter_turns: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise BadInput(
                f"crops of {self.scale[0]:g} to {self.scale[1]:g} times the picture's area do not exist: "
                f"two rising shares, above 0 and at most 1, for crops are never larger than the picture"
            )

    def __call__(self, pictures: list[Image], seed: int, epoch: Tensor, index: Tensor) -> Tensor:
        """(B, V, C, size, size) uint8, from B pictures and their (B,) epochs and indices."""
        draw = Draw(seed, epoch, index)  # once a batch: drawing for each picture alone would cost more than decoding it
        noise = draw.uniform(f"{self.name}crop", self.num, 4 * ATTEMPTS).tolist()
        flips = (draw.uniform(f"{self.name}flip", self.num) < self.flip).tolist()
        turns = draw.integers(f"{self.name}turn", 4, self.num).tolist() if self.quarter_turns else [[0] * self.num] * len(noise)
        choices = [
            (picture, *choice)
            for picture, *of_picture in zip(pictures, noise, flips, turns, strict=True)
            for choice in zip(*of_picture, strict=True)
        ]
        views = in_threads(self._crop, choices)
        return pixels(views).unflatten(0, (len(pictures), self.num))

    def _crop(self, picture: Image, noise: list[float], flipped: bool, turns: int) -> Image:
        box = crop_box(picture.width, picture.height, noise, self.scale, self.ratio)
        view = picture.resize((self.size, self.size), Resampling.BICUBIC, box=box)
        if flipped:
            view = view.transpose(Transpose.FLIP_LEFT_RIGHT)
        return view.transpose(QUARTERS[turns]) if turns else view


def in_threads(crop: Callable[..., Image], choices: list[tuple]) -> list[Image]:
    """[crop(*choice) for choice in choices], by as many threads as PyTorch may use here: one in a data worker.

    Pillow resizes without the interpreter's lock, and no step computes while the training process itself makes a batch.
    """
    size = -(-len(choices) // min(torch.get_num_threads(), MOST_THREADS))
    parts = [choices[first : first + size] for first in range(0, len(choices), size)]
    with ThreadPoolExecutor(len(parts)) as threads:
        done = threads.map(lambda part: [crop(*choice) for choice in part], parts)
        return [view for part in done for view in part]


def view_side(name: str, side: int | None, encoder: Encoder, spec: DataSpec) -> int:
    """The side of views in pixels; None is the image size.

    Args:
        name: of the setting, for the message.

    Raises:
        BadInput: larger than the pictures, or not a size that the encoder can read.
    """
    if side is None or side == spec.image_size:
        return spec.image_size
    if side > spec.image_size:
        raise BadInput(f"objective.{name}={side} is larger than the pictures of {spec.image_size} px")
    if not encoder.takes(side):
        patch = encoder.patch_size
        choices = [] if patch == 0 or not encoder.takes(patch) else list(range(patch, spec.image_size + 1, patch))
        fitting = f"sizes that fit: {', '.join(map(str, choices))}" if choices else "vit_t and resnet18 read other sizes"
        raise BadInput(
            f"objective.{name}={side} is no size that this model, built for {spec.image_size} px, can read; {fitting}"
        )
    return side


def crop_box(
    width: int, height: int, noise: list[float], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in whole pixels, from uniform noise: four numbers for each of the attempts."""
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for attempt in range(ATTEMPTS):
        area_noise, ratio_noise, left_noise, top_noise = noise[4 * attempt : 4 * attempt + 4]
        area = width * height * (scale[0] + area_noise * (scale[1] - scale[0]))
        aspect = math.exp(log_ratio[0] + ratio_noise * (log_ratio[1] - log_ratio[0]))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(left_noise * (width - w + 1)), int(top_noise * (height - h + 1))
            return left, top, left + w, top + h
    w = min(width, round(height * ratio[1]))
    h = min(height, round(width / ratio[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
