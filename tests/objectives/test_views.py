"""Crops: inside the picture, with the stated law, and nothing but a function of (seed, epoch, index)."""

import numpy as np
import PIL.Image
import pytest
import torch
from scipy import stats

from objectives.views import Crops, crop_box


def boxes(num: int, width: int, height: int, scale: tuple[float, float]) -> np.ndarray:
    noise = np.random.default_rng(0).random((num, 40))
    return np.array([crop_box(width, height, list(row), scale, (3 / 4, 4 / 3)) for row in noise])


def test_boxes_lie_inside_and_have_the_stated_areas_and_ratios():
    left, top, right, bottom = boxes(3000, 400, 300, (0.2, 1.0)).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (right <= 400).all()
    assert (bottom <= 300).all()
    width, height = right - left, bottom - top
    assert (width * height / 120_000).min() > 0.19
    assert 0.74 < (width / height).min() < (width / height).max() < 1.35


def test_small_areas_are_uniform_and_places_too():
    left, top, right, bottom = boxes(3000, 1000, 1000, (0.05, 0.3)).T
    area = (right - left) * (bottom - top) / 1e6
    assert stats.kstest((area - 0.05) / 0.25, "uniform").pvalue > 1e-3
    assert stats.kstest(left / (1000 - (right - left)), "uniform").pvalue > 1e-3
    assert stats.kstest(top / (1000 - (bottom - top)), "uniform").pvalue > 1e-3


def test_a_picture_of_extreme_shape_falls_back_to_a_centred_crop():
    left, top, right, bottom = crop_box(1000, 10, [0.99, 0.5, 0.5, 0.5] * 10, (0.9, 1.0), (3 / 4, 4 / 3))
    assert (top, bottom) == (0, 10)
    assert right - left == 13
    assert abs((left + right) / 2 - 500) <= 1


def view(crops: Crops, picture: PIL.Image.Image, seed: int, epoch: int, index: int) -> torch.Tensor:
    return crops([picture], seed, torch.tensor([epoch]), torch.tensor([index]))[0]


def test_views_are_a_function_of_seed_epoch_and_index():
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    crops = Crops(32, num=2)
    views = view(crops, picture, 0, 0, 0)
    assert views.shape == (2, 3, 32, 32)
    assert views.dtype == torch.uint8
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views, view(crops, picture, 0, 0, 0))
    for other in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not torch.equal(views, view(crops, picture, *other))


def test_a_picture_gets_the_same_views_in_any_batch():
    pictures = [PIL.Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)) for i in range(3)]
    batch = Crops(32, num=2)(pictures, 0, torch.tensor([4, 4, 5]), torch.tensor([7, 8, 9]))
    assert torch.equal(batch[2], view(Crops(32, num=2), pictures[2], 0, 5, 9))


@pytest.mark.parametrize("num_pictures", [1, 7])
def test_threads_change_nothing(num_pictures):
    noise = np.random.default_rng(0).integers(0, 256, (num_pictures, 20, 30, 3), np.uint8)
    pictures, index = [PIL.Image.fromarray(array) for array in noise], torch.arange(num_pictures)
    crops, before, made = Crops(16, 2, quarter_turns=True), torch.get_num_threads(), []
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            made.append(crops(pictures, 0, torch.zeros_like(index), index))
    finally:
        torch.set_num_threads(before)
    assert made[0].shape == (num_pictures, 2, 3, 16, 16)
    assert torch.equal(*made)


def test_half_of_the_views_are_flipped():
    array = np.zeros((32, 32, 3), np.uint8)
    array[:, 16:] = 255
    picture = PIL.Image.fromarray(array)
    whole = Crops(32, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    flipped = sum(int(view(whole, picture, 0, 0, i)[0, 0, 0, 0] > 127) for i in range(1000))
    assert abs(flipped - 500) < 4 * 250**0.5


def test_grey_pictures_stay_grey():
    picture = PIL.Image.fromarray(np.zeros((32, 32), np.uint8))
    assert view(Crops(16), picture, 0, 0, 0).shape == (1, 1, 16, 16)


def test_quarter_turns_are_equally_likely_and_move_what_stands_in_a_corner():
    picture = PIL.Image.new("RGB", (8, 8))
    picture.putpixel((0, 0), (255, 255, 255))
    whole = Crops(8, scale=(1, 1), ratio=(1, 1), flip=0.0, quarter_turns=True)
    corners = {(0, 0): 0, (0, 7): 0, (7, 0): 0, (7, 7): 0}
    for i in range(1000):
        (place,) = view(whole, picture, 0, 0, i)[0, 0].nonzero().tolist()
        corners[tuple(place)] += 1
    assert stats.chisquare(list(corners.values())).pvalue > 1e-3
    plain = Crops(8, scale=(1, 1), ratio=(1, 1), flip=0.0)
    assert all(view(plain, picture, 0, 0, i)[0, 0, 0, 0] == 255 for i in range(20))
