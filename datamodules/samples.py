"""From stored pictures to a batch of tensors: decoding, colours, corrupt files, and what the objective wants done to each.

Shapes: B samples, V views, C channels, H = W image size.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from PIL.ExifTags import Base
from PIL.Image import Image, Resampling, Transpose
from torch import Tensor
from torch.utils.data import Dataset

from errors import BadInput

log = logging.getLogger(__name__)

PIXEL_BYTES = {"RGB": 4, "L": 1}  # in Pillow's memory
TURNS = {  # orientation in EXIF -> what makes it upright
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_90,
}  # fmt: skip
# Bytes of decoded pictures in a reader; every worker is one. A split that fits is decoded once, not once an epoch.
KEPT = 2**28


@dataclass(frozen=True)
class Pictures:
    """One split.

    Attributes:
        load: index -> picture as it is stored; picklable; raises on a corrupt file.
        labels: (num,) class numbers, or None.
        num: how many there are.
        shard: (num,) in which shard each lies; None where any order is as fast to read.
    """

    load: Callable[[int], Image]
    num: int
    labels: np.ndarray | None = None
    shard: np.ndarray | None = None

    def subset(self, indices: np.ndarray) -> "Pictures":
        labels = None if self.labels is None else self.labels[indices]
        shard = None if self.shard is None else self.shard[indices]
        return Pictures(Reindexed(self.load, indices), len(indices), labels, shard)


@dataclass(frozen=True)
class Reindexed:
    """Some of what `load` gives, renumbered."""

    load: Callable[[int], Any]
    indices: np.ndarray

    def __call__(self, index: int) -> Any:
        return self.load(int(self.indices[index]))


@dataclass(frozen=True)
class EvaluationView:
    """The view without chance: the shorter side resized to `size`, the centre cropped."""

    size: int

    def __call__(self, pictures: list[Image], seed: int, epoch: Tensor, index: Tensor) -> Tensor:
        """(B, 1, C, size, size) uint8."""
        return pixels([self._centre(picture) for picture in pictures])[:, None]

    def _centre(self, picture: Image) -> Image:
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        if picture.size == (self.size, self.size):
            return picture
        return picture.resize((self.size, self.size), Resampling.BICUBIC, box=(left, top, left + side, top + side))


class Samples(Dataset):
    """A list of (epoch, index) -> one batch; without state, so the number of workers changes nothing.

    Args:
        pictures: one split.
        channels: 3, or 1.
        view: (pictures, seed, epoch (B,), index (B,)) -> (B, V, C, H, W) uint8, or several of them by name.
        seed: of the run, for the view.
        substitute: in training, a corrupt picture is replaced by the next readable one, so that batches keep their size;
            in evaluation it is left out.
    """

    def __init__(
        self, pictures: Pictures, channels: int, view: Callable[..., Tensor | dict[str, Tensor]], seed: int, substitute: bool
    ):
        self.pictures, self.channels, self.view = pictures, channels, view
        self.seed, self.substitute = seed, substitute
        self.reported: set[int] = set()
        self.decoded: dict[int, Image] = {}

    def __getitems__(self, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
        """{"views": (B, V, C, H, W) uint8, "label", "epoch", "index": (B,), "corrupt": how many were replaced}."""
        return self.read(pairs)[0]

    def read(self, pairs: list[tuple[int, int]]) -> tuple[dict[str, Tensor], list[int]]:
        """(the batch, the number of the picture that each sample really shows)."""
        found = [(pair, self._read(pair[1])) for pair in pairs]
        found = [(pair, read) for pair, read in found if read is not None]
        epoch, index = torch.tensor([pair for pair, _ in found], dtype=torch.long).reshape(-1, 2).unbind(1)
        labels = self.pictures.labels
        label = [-1 if labels is None else int(labels[source]) for _, (source, _) in found]
        pictures = [picture for _, (_, picture) in found]
        sources = [source for _, (source, _) in found]
        views = self.view(pictures, self.seed, epoch, index) if pictures else torch.empty(0, dtype=torch.uint8)
        batch = {
            **(views if isinstance(views, dict) else {"views": views}),
            "label": torch.tensor(label, dtype=torch.long),
            "epoch": epoch,
            "index": index,
            "corrupt": torch.tensor(sum(source != pair[1] for pair, (source, _) in found)),
        }
        return batch, sources

    def _read(self, index: int) -> tuple[int, Image] | None:
        num_attempts = min(100, self.pictures.num) if self.substitute else 1
        for attempt in range(num_attempts):
            source = (index + attempt) % self.pictures.num
            try:
                return source, self._picture(source)
            except MemoryError:
                raise
            except Exception as error:  # Pillow's decoders raise nearly all there is
                if source not in self.reported:  # once, not once an epoch
                    self.reported.add(source)
                    log.warning("corrupt picture %d skipped: %s", source, " ".join(str(error).split())[:120])
        if self.substitute:
            raise BadInput(f"{num_attempts} pictures in a row cannot be read, from number {index} on")
        return None

    def _picture(self, source: int) -> Image:
        kept = self.decoded.get(source)
        if kept is None:
            stored = self.pictures.load(source)
            kept = to_channels(stored, self.channels)
            split_bytes = self.pictures.num * kept.width * kept.height * PIXEL_BYTES[kept.mode]  # as if all were like this one
            if stored.format is not None and split_bytes <= KEPT:  # what comes from an array is made again for nothing
                self.decoded[source] = kept
        return kept


def usual_size(pictures: Pictures) -> int:
    """The median shorter side of the first pictures, at most 224 px."""
    sides = []
    for index in range(min(32, pictures.num)):
        try:
            sides.append(min(pictures.load(index).size))
        except Exception:  # what is wrong with it is said where it is needed
            continue
    if not sides:
        raise BadInput("none of the first pictures can be read")
    return min(224, int(np.median(sides)))


def pixels(pictures: list[Image]) -> Tensor:
    """(B, C, H, W) uint8, from pictures of one size."""
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2).contiguous()


def to_channels(picture: Image, channels: int) -> Image:
    """RGB or grey, upright, from palettes, 16 and 32 bits, CMYK and transparency (laid on white)."""
    turn = _turn(picture) if picture.info.get("exif") else None  # Pillow turns TIFF itself
    if turn is not None:
        picture = picture.transpose(turn)
    if picture.mode in ("LA", "PA") or (picture.mode in ("P", "L", "RGB", "1") and "transparency" in picture.info):
        picture = picture.convert("RGBA")
    if picture.mode == "RGBA":
        white = PIL.Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture)
        picture = white
    if picture.mode.startswith("I;16"):
        picture = PIL.Image.fromarray((np.asarray(picture) / 257).astype(np.uint8))
    elif picture.mode in ("I", "F"):
        picture = PIL.Image.fromarray(_of_8_bits(np.asarray(picture)))
    picture.load()
    mode = "RGB" if channels == 3 else "L"
    return picture if picture.mode == mode else picture.convert(mode)


def _turn(picture: Image) -> Transpose | None:
    """How it becomes upright, by what the camera noted."""
    try:
        return TURNS.get(picture.getexif().get(Base.Orientation))
    except Exception:  # Pillow's parsers raise nearly all there is; the picture itself may be whole
        return None


def _of_8_bits(grey: np.ndarray) -> np.ndarray:
    """Of 32 bits, which do not say what white is: the first of 1, 255 and 65535 that holds all values."""
    grey = np.nan_to_num(grey)
    white = next((white for white in (1, 255) if grey.max(initial=0) <= white), 65535)
    return np.rint(grey.clip(0, white) * (255 / white)).astype(np.uint8)
