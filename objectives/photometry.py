"""Colour augmentation of whole batches, one set of parameters a sample, on the training device.

Images are (B, C, H, W) floats in [0, 1]; parameters are (B,). The formulas are those of torchvision's `functional`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.fused import chains_compiled, fused
from objectives.draw import Draw

GREY_WEIGHTS = (0.2989, 0.587, 0.114)
SMALL_IMAGE = 64  # pixels; up to here the recipes for CIFAR: no blur, and SimCLR's colours at half their strength


@dataclass(frozen=True)
class Photometry:
    """SimCLR's colour augmentation (Chen et al. 2020, appendix A) and the extras of its followers.

    Args:
        brightness, contrast, saturation: factors are uniform in [max(0, 1 - s), 1 + s].
        hue: shift is uniform in [-s, s], in turns of the colour circle; s is at most one half.
        jitter: probability of the four above, applied in a random order. To grey pictures the last two do nothing.
        grey: probability of losing colour.
        blur: probability of a Gaussian blur, sigma uniform in [0.1, 2] pixels, kernel a tenth of the side.
        solarise: probability of inverting what is brighter than one half.
    """

    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    jitter: float = 0.8
    grey: float = 0.2
    blur: float = 0.5
    solarise: float = 0.0

    def __call__(self, images: Tensor, draw: Draw, view: int) -> Tensor:
        """Augment one view of a batch; `view` separates the choices of the views of one sample."""
        chance = draw.uniform(f"photometry {view}", 8)
        if self.jitter > 0:
            jittered = self._jitter(images, chance[:, :4], draw.permutation(f"jitter order {view}", 4))
            images = _where(chance[:, 4] < self.jitter, jittered, images)
        if self.grey > 0:
            images = some_grey(images, chance[:, 5] < self.grey)
        if self.blur > 0:
            sigma = 0.1 + 1.9 * draw.uniform(f"blur {view}")
            images = _where(chance[:, 6] < self.blur, blur(images, sigma), images)
        if self.solarise > 0:
            images = some_solarised(images, chance[:, 7] < self.solarise)
        return images

    def _jitter(self, images: Tensor, chance_B4: Tensor, order_B4: Tensor) -> Tensor:
        ranges = [(max(0.0, 1 - s), 1 + s) for s in (self.brightness, self.contrast, self.saturation)]
        ranges.append((-min(self.hue, 0.5), min(self.hue, 0.5)))  # in the order of CHANGES
        columns = zip(ranges, chance_B4.unbind(1), strict=True)
        parameter_B4 = torch.stack([low + (high - low) * chance_B for (low, high), chance_B in columns], dim=1)
        return (jitter_all if chains_compiled() else jitter_by_rows)(images, parameter_B4, order_B4)


def simclr_colours(image_size: int, strength: float | None = None, blur: float | None = None) -> tuple[Photometry, Photometry]:
    """Both views alike (Chen et al. 2020, appendix A, and B.9 for small pictures).

    Args:
        strength: s of the jitter; None is 1, or 0.5 for pictures up to 64 px.
        blur: probability; None is 0.5, or 0 for pictures up to 64 px.
    """
    small = image_size <= SMALL_IMAGE
    strength = (0.5 if small else 1.0) if strength is None else strength
    blur = (0.0 if small else 0.5) if blur is None else blur
    view = Photometry(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, blur=blur)
    return view, view


def byol_colours(image_size: int) -> tuple[Photometry, Photometry]:
    """The first view is always blurred, the second seldom but sometimes solarised (Grill et al. 2020, table 6).

    Pictures up to 64 px are not blurred.
    """
    blurs = (0.0, 0.0) if image_size <= SMALL_IMAGE else (1.0, 0.1)
    jitter = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
    return Photometry(**jitter, blur=blurs[0]), Photometry(**jitter, blur=blurs[1], solarise=0.2)


def jitter_by_rows(images: Tensor, parameter_B4: Tensor, order_B4: Tensor) -> Tensor:
    """The four CHANGES, in each sample's own order; each is made of those samples alone whose turn it is."""
    images = images.clone()
    # the rows of each change lie side by side; how many there are is asked once, for a GPU waits at every question
    rows_B4 = order_B4.argsort(dim=0, stable=True)
    count_44 = F.one_hot(order_B4, len(CHANGES)).sum(0).tolist()
    for place in range(len(CHANGES)):
        rows_of = rows_B4[:, place].split(count_44[place])
        for number, (change, rows) in enumerate(zip(CHANGES, rows_of, strict=True)):
            images[rows] = change(images[rows], parameter_B4[rows, number])
    return images


@fused
def jitter_all(images: Tensor, parameter_B4: Tensor, order_B4: Tensor) -> Tensor:
    """The same, each change made of all samples, of which those take it whose turn it is.

    Four times the arithmetic, which a compiler joins into few passes over memory; and no question that a GPU would wait at.
    """
    for place in range(len(CHANGES)):
        before = images
        for number, change in enumerate(CHANGES):
            images = _where(order_B4[:, place] == number, change(before, parameter_B4[:, number]), images)
    return images


def _where(chosen_B: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(chosen_B[:, None, None, None], yes, no)


@fused
def floats(pixels: Tensor) -> Tensor:
    """Bytes as floats in [0, 1]."""
    return pixels.float().div(255)


@fused
def some_grey(images: Tensor, chosen_B: Tensor) -> Tensor:
    """Images of which those that are chosen have lost their colour."""
    return _where(chosen_B, grey(images).expand_as(images), images)


@fused
def some_solarised(images: Tensor, chosen_B: Tensor) -> Tensor:
    """Images of which those that are chosen are inverted where they are brighter than one half."""
    return _where(chosen_B, torch.where(images >= 0.5, 1 - images, images), images)


def grey(images: Tensor) -> Tensor:
    """Luminance, (B, 1, H, W)."""
    if images.shape[1] == 1:
        return images
    red, green, blue = (weight * channel for weight, channel in zip(GREY_WEIGHTS, images.unbind(1), strict=True))
    return (red + green + blue).unsqueeze(1)


def _blend(images: Tensor, other: Tensor, factor_B: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(images), images, factor_B[:, None, None, None]).clamp(0, 1)


def adjust_brightness(images: Tensor, factor_B: Tensor) -> Tensor:
    return (images * factor_B[:, None, None, None]).clamp(0, 1)


def adjust_contrast(images: Tensor, factor_B: Tensor) -> Tensor:
    return _blend(images, grey(images).mean((1, 2, 3), keepdim=True), factor_B)


def adjust_saturation(images: Tensor, factor_B: Tensor) -> Tensor:
    return _blend(images, grey(images), factor_B)


def adjust_hue(images: Tensor, shift_B: Tensor) -> Tensor:
    """Turn the hue by `shift_B` turns, through HSV; grey has none."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)
    saturation = chroma / value.clamp(min=1e-12)
    safe = chroma.clamp(min=1e-12)
    of_red, of_green, of_blue = ((green - blue) / safe) % 6, (blue - red) / safe + 2, (red - green) / safe + 4
    sextant = torch.where(red == value, of_red, torch.where(green == value, of_green, of_blue))
    hue = sextant / 6 * (chroma > 0)
    hue = (hue + shift_B[:, None, None]) % 1.0
    # each channel is value - chroma * clamp(distance of the hue from the channel's own sector)
    offset = torch.arange(5, 0, -2, device=images.device).view(1, 3, 1, 1)
    k = (offset + hue.unsqueeze(1) * 6) % 6
    ramp = torch.minimum(k, 4 - k).clamp(0, 1)
    return value.unsqueeze(1) * (1 - saturation.unsqueeze(1) * ramp)


CHANGES = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


def blur(images: Tensor, sigma_B: Tensor) -> Tensor:
    """Gaussian blur, separable, the kernel a tenth of the side (odd, at least 3), reflected at the borders."""
    batch, channels, height, width = images.shape
    radius = max(1, height // 20)
    offset = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (offset / sigma_B[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)[:, None, None]  # (B C, 1, 1, K)
    images = images.reshape(1, batch * channels, height, width)
    images = F.conv2d(F.pad(images, (radius, radius, 0, 0), "reflect"), kernel, groups=batch * channels)
    images = F.conv2d(F.pad(images, (0, 0, radius, radius), "reflect"), kernel.mT, groups=batch * channels)
    return images.reshape(batch, channels, height, width)
