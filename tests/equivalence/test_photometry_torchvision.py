"""Batched colour changes against torchvision's functions, one picture at a time."""

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from objectives import photometry
from objectives.draw import Draw


@pytest.fixture
def images() -> torch.Tensor:
    torch.manual_seed(0)
    images = torch.rand(6, 3, 16, 16)
    images[0] = images[0, :1]  # grey
    images[1] = 0.0
    images[2] = 1.0
    return images


@pytest.mark.parametrize(
    ("ours", "theirs", "parameters"),
    [
        (photometry.adjust_brightness, reference.adjust_brightness, (0.0, 0.3, 1.0, 1.2, 1.8, 0.7)),
        (photometry.adjust_contrast, reference.adjust_contrast, (0.0, 0.3, 1.0, 1.2, 1.8, 0.7)),
        (photometry.adjust_saturation, reference.adjust_saturation, (0.0, 0.3, 1.0, 1.2, 1.8, 0.7)),
        (photometry.adjust_hue, reference.adjust_hue, (0.1, -0.2, 0.0, 0.5, -0.5, 0.05)),
    ],
)
def test_equal(images, ours, theirs, parameters):
    mine = ours(images, torch.tensor(parameters))
    for image, result, parameter in zip(images, mine, parameters, strict=True):
        torch.testing.assert_close(result, theirs(image, parameter), rtol=1e-4, atol=1e-4)


def test_grey_equal(images):
    torch.testing.assert_close(photometry.grey(images), reference.rgb_to_grayscale(images), rtol=1e-4, atol=1e-4)


def test_blur_equal():
    torch.manual_seed(0)
    images, sigma = torch.rand(3, 3, 64, 64), torch.tensor([0.2, 1.0, 2.0])
    blurred = photometry.blur(images, sigma)
    for image, result, s in zip(images, blurred, sigma.tolist(), strict=True):
        torch.testing.assert_close(result, reference.gaussian_blur(image, [7, 7], [s, s]), rtol=1e-4, atol=1e-4)


def test_every_sample_has_parameters_of_its_own_and_any_batch_gives_the_same(images):
    augment = photometry.Photometry()
    same = images[3:4].expand(8, -1, -1, -1)
    epoch, index = torch.zeros(8, dtype=torch.long), torch.arange(8)
    batch = augment(same, Draw(0, epoch, index), 0)
    assert len(batch.flatten(1).unique(dim=0)) >= 7
    alone = augment(same[5:6], Draw(0, epoch[5:6], index[5:6]), 0)
    torch.testing.assert_close(batch[5:6], alone)
    assert not torch.equal(batch, augment(same, Draw(0, epoch, index), 1))


def test_probabilities():
    num = 4000
    draw = Draw(0, torch.zeros(num, dtype=torch.long), torch.arange(num))
    torch.manual_seed(0)
    images = torch.rand(1, 3, 8, 8).expand(num, -1, -1, -1)
    only_grey = photometry.Photometry(jitter=0.0, blur=0.0, grey=0.2)(images, draw, 0)
    share = float(((only_grey[:, 0] - only_grey[:, 1]).abs().amax((1, 2)) < 1e-6).float().mean())
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / num) ** 0.5
