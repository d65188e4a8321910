"""Augmentation as the papers have it: which operations, how likely, and from which distributions."""

from dataclasses import astuple

import pytest
import scipy
import torch
from made_vision import OBJECTIVES, encoder_of, made_data
from torch import Tensor

from conf import read_choice
from objectives.draw import Draw
from objectives.photometry import Photometry, byol_colours, simclr_colours
from objectives.supervised import Supervised, mix_pairs

NUM = 2000
OFF = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "jitter": 1.0, "grey": 0.0, "blur": 0.0}
LEAST_P = 1e-3  # of a Kolmogorov-Smirnov test, whose draw is always the same


def draw_of(num: int = NUM) -> Draw:
    return Draw(0, torch.zeros(num, dtype=torch.long), torch.arange(num))


def many(image: Tensor) -> Tensor:
    return image.expand(NUM, -1, -1, -1)


def is_uniform(values: Tensor, low: float, high: float) -> bool:
    return scipy.stats.kstest(values.double().numpy(), scipy.stats.uniform(low, high - low).cdf).pvalue > LEAST_P


@pytest.mark.parametrize(
    ("colours", "expected"),
    [  # brightness, contrast, saturation, hue; probabilities of jitter, grey, blur, solarise
        (simclr_colours(224)[0], (0.8, 0.8, 0.8, 0.2, 0.8, 0.2, 0.5, 0.0)),  # Chen et al. 2020, appendix A
        (simclr_colours(224)[1], (0.8, 0.8, 0.8, 0.2, 0.8, 0.2, 0.5, 0.0)),
        (simclr_colours(32)[0], (0.4, 0.4, 0.4, 0.1, 0.8, 0.2, 0.0, 0.0)),  # the same, B.9: CIFAR-10
        (byol_colours(224)[0], (0.4, 0.4, 0.2, 0.1, 0.8, 0.2, 1.0, 0.0)),  # Grill et al. 2020, table 6
        (byol_colours(224)[1], (0.4, 0.4, 0.2, 0.1, 0.8, 0.2, 0.1, 0.2)),
        (byol_colours(32)[1], (0.4, 0.4, 0.2, 0.1, 0.8, 0.2, 0.0, 0.2)),
    ],
)
def test_recipes(colours, expected):
    assert astuple(colours) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "first", "others"),
    [  # He, Chen et al. 2020; Caron et al. 2021, appendix A: the small crops of DINO are blurred as often as not
        ("moco_v2", (0.4, 0.4, 0.4, 0.1, 0.8, 0.2, 0.5, 0.0), (0.4, 0.4, 0.4, 0.1, 0.8, 0.2, 0.5, 0.0)),
        ("dino", (0.4, 0.4, 0.2, 0.1, 0.8, 0.2, 1.0, 0.0), (0.4, 0.4, 0.2, 0.1, 0.8, 0.2, 0.5, 0.0)),
    ],
)
def test_recipes_of_large_pictures(name, first, others):
    data = made_data(80)
    objective = OBJECTIVES[name](encoder_of("resnet", data.spec), data.spec)
    colours = objective.colours if name == "dino" else objective.two_views.colours
    assert astuple(colours[0]) == pytest.approx(first)
    assert astuple(colours[-1]) == pytest.approx(others)


@pytest.mark.parametrize(
    ("name", "papers"),
    [
        ("mae", {"mask_ratio": 0.75, "normalise_target": True, "crop_scale": [0.2, 1.0]}),  # He et al. 2022, tables 1 and 8
        ("simclr", {"temperature": 0.5, "embedding_width": 128, "crop_scale": [0.08, 1.0]}),  # B.9 for CIFAR-10; appendix A
        ("moco_v2", {"temperature": 0.2, "embedding_width": 128, "projector_width": 2048, "crop_scale": [0.2, 1.0]}),
        ("moco_v3", {"temperature": 0.2, "momentum": 0.99, "embedding_width": 256, "projector_depth": 3}),
        ("byol", {"embedding_width": 256, "crop_scale": [0.08, 1.0]}),  # Grill et al. 2020, section 3.2
        (  # Caron et al. 2021, appendix A and the authors' code
            "dino",
            {
                "bottleneck_width": 256, "head_width": 2048, "student_temperature": 0.1, "teacher_temperature": [0.04, 0.07],
                "centre_momentum": 0.9, "num_local": 8, "local_scale": [0.05, 0.4], "global_scale": [0.4, 1.0],
            },
        ),
        ("vicreg", {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}),  # Bardes et al. 2022, section 4.2
        ("supervised", {"label_smoothing": 0.1}),  # Szegedy et al. 2016, section 7
    ],
)  # fmt: skip
def test_defaults_are_the_papers(name, papers):
    chosen = read_choice("objective", name)
    assert {key: chosen[key] for key in papers} == papers


@pytest.mark.parametrize(("strength", "low", "high"), [(0.4, 0.6, 1.4), (1.5, 0.0, 2.5)])
def test_factors_are_uniform_and_never_below_zero(strength, low, high):
    changed = {
        name: Photometry(**(OFF | {name: strength}))(image, draw_of(), 0)
        for name, image in {
            "brightness": many(torch.full((1, 3, 1, 1), 0.25)),
            "contrast": many(torch.tensor([0.4, 0.6]).expand(1, 3, 1, 2)),
            "saturation": many(torch.tensor([0.6, 0.5, 0.5])[None, :, None, None]),
        }.items()
    }
    assert is_uniform(changed["brightness"][:, 0, 0, 0] / 0.25, low, high)
    assert is_uniform((changed["contrast"][:, 0, 0, 1] - changed["contrast"][:, 0, 0, 0]) / 0.2, low, high)
    assert is_uniform((changed["saturation"][:, 0] - changed["saturation"][:, 1])[:, 0, 0] / 0.1, low, high)


@pytest.mark.parametrize(("strength", "most"), [(0.1, 0.1), (0.8, 0.5)])
def test_hue_turns_both_ways_alike(strength, most):
    turned = Photometry(**(OFF | {"hue": strength}))(many(torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]), draw_of(), 0)
    red, green, blue = turned[:, :, 0, 0].unbind(1)
    sector = torch.where(red == 1, (green - blue) % 6, torch.where(green == 1, blue - red + 2, red - green + 4))
    assert is_uniform((sector / 6 + 0.5) % 1 - 0.5, -most, most)


def test_blur_is_as_wide_as_simclrs():
    point = torch.zeros(1, 3, 64, 64)
    point[..., 32, 32] = 1
    blurred = Photometry(**(OFF | {"jitter": 0.0, "blur": 1.0}))(many(point)[:500], draw_of(500), 0).double()
    log_ratio = (blurred[:, 0, 32, 33] / blurred[:, 0, 32, 32]).log()  # -1 / (2 sigma^2)
    assert is_uniform((-0.5 / log_ratio).sqrt(), 0.1, 2.0)


@pytest.mark.parametrize("name", ["jitter", "grey", "blur", "solarise"])
def test_each_operation_is_as_likely_as_it_says(name):
    torch.manual_seed(0)
    image = torch.rand(1, 3, 24, 24)
    chosen = OFF | {"brightness": 0.5, "jitter": 0.0, name: 0.3}
    share = (Photometry(**chosen)(many(image), draw_of(), 0) != image).flatten(1).any(dim=1).float().mean()
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / NUM) ** 0.5


@pytest.mark.parametrize("colours", [*simclr_colours(80), *byol_colours(80)])
def test_grey_pictures_are_changed_as_their_copies_in_three_channels(colours):
    torch.manual_seed(0)
    grey, draw = torch.rand(64, 1, 20, 20), draw_of(64)
    changed, in_three = colours(grey, draw, 0), colours(grey.expand(-1, 3, -1, -1), draw, 0)
    torch.testing.assert_close(changed.expand_as(in_three), in_three, atol=2e-3, rtol=0)  # luminance weighs channels 0.9999
    assert (changed != grey).flatten(1).any(dim=1).float().mean() > 0.7


@pytest.fixture
def mixed() -> tuple[Tensor, Tensor, Tensor]:
    """(share of the own picture among the pixels, target of the own class, whether by CutMix) of 2,000 mixed pictures."""
    images = (torch.arange(NUM) % 2).float()[:, None, None, None].expand(-1, 1, 32, 32)  # each beside the other kind
    target = torch.nn.functional.one_hot(torch.arange(NUM) % 2, 2).float()
    pictures, soft = mix_pairs(images, target, draw_of(), 1.0)
    own = torch.where(images[:, 0, 0, 0] == 1, pictures.mean((1, 2, 3)), 1 - pictures.mean((1, 2, 3)))
    cut = (pictures.flatten(1) * (1 - pictures.flatten(1))).amax(dim=1) == 0
    return own, soft[torch.arange(NUM), torch.arange(NUM) % 2], cut


def test_mixed_labels_are_mixed_as_the_pixels_are(mixed):
    own, target, cut = mixed
    torch.testing.assert_close(own, target, atol=1e-5, rtol=0)
    assert abs(cut.float().mean() - 0.5) < 4 * 0.5 / NUM**0.5
    assert scipy.stats.kstest(own[~cut].numpy(), scipy.stats.beta(0.8, 0.8).cdf).pvalue > LEAST_P
    assert abs(own[cut].mean() - 0.5) < 4 * 0.29 / (NUM / 2) ** 0.5  # a box of a uniform share, in whole pixels


def test_of_mixed_pictures_the_larger_share_is_right():
    data = made_data(batch_size=16)
    objective = Supervised(encoder_of("tiny", data.spec), data.spec, mix=1.0)
    batch = next(iter(data.train_loader(objective.views(), 0, 1)))
    draw = Draw(0, batch["epoch"], batch["index"])
    one_hot = torch.nn.functional.one_hot(batch["label"], data.spec.num_classes).float()
    exact = mix_pairs(batch["views"][:, 0].float() / 255, one_hot, draw, 1.0)[1]
    objective.head.forward = lambda features: exact.log().clamp(min=-20)
    assert (exact.argmax(dim=1) != batch["label"]).any()
    assert objective(batch, draw).report["accuracy"] == 1
