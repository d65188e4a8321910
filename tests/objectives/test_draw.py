"""Draws: right against Python's big integers, uniform, and a function of (seed, epoch, index) alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from conf.targets import fits
from datamodules.counter import scramble
from datamodules.order import permutation
from objectives.draw import Draw
from ranges import LARGEST_SEED, Seed
from training.pretraining import Pretraining

MASK = 2**64 - 1


def splitmix64(bits: int) -> int:
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & MASK
    return bits ^ (bits >> 31)


def signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


def draw_of(num: int, seed: int = 0, epoch: int = 0) -> Draw:
    return Draw(seed, torch.full((num,), epoch), torch.arange(num))


def draw_at(seed: int, epoch: int, index: int) -> Draw:
    return Draw(seed, torch.tensor([epoch]), torch.tensor([index]))


def test_scramble_is_splitmix64s_finaliser():
    values = [0, 1, 2**63, 0x9E3779B97F4A7C15, MASK, 123456789]
    ours = scramble(torch.tensor([signed(value) for value in values])).tolist()
    assert ours == [signed(splitmix64(value)) for value in values]


def test_normal_numbers_are_normal_and_finite():
    numbers = draw_of(2000).normal("noise", 50)
    assert numbers.shape == (2000, 50)
    assert torch.isfinite(numbers).all()
    assert stats.kstest(numbers.flatten().double().numpy(), "norm").pvalue > 1e-3
    extremes = draw_of(1)
    for bits in (0, -1):  # the smallest and the largest number that a draw can be
        extremes.bits = lambda name, *shape, bits=bits: torch.full((1, *shape), bits)
        assert 5 < extremes.normal("", 1).abs() < 6


def test_known_output_of_the_published_generator():
    # Java's SplittableRandom and the C reference give 0xE220A8397B1DCDAF first for seed 0
    assert splitmix64(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("seed", [0, LARGEST_SEED])
def test_every_generator_takes_the_seeds_that_a_run_may_have(seed):
    assert fits(seed, Seed)
    index = torch.arange(4)
    assert Draw(seed, index, index).uniform("x", 2).shape == (4, 2)
    torch.manual_seed(seed)
    np.random.default_rng(seed)
    assert sorted(permutation(seed, 3, 5).tolist()) == [0, 1, 2, 3, 4]
    batch = {"epoch": index, "index": index}
    module = SimpleNamespace(
        seed=seed, global_rank=1, global_step=10, device=torch.device("cpu"), arrangement=SimpleNamespace(accumulate=2),
        objective=lambda batch, draw: torch.rand(1),
    )  # fmt: skip
    assert 0 <= Pretraining._forward(module, batch, 1) < 1


def test_a_sample_gets_the_same_numbers_in_any_batch():
    whole = draw_of(64).uniform("mask", 10)
    alone = Draw(0, torch.tensor([0]), torch.tensor([37])).uniform("mask", 10)
    assert torch.equal(whole[37], alone[0])


def test_seed_epoch_index_and_name_each_change_the_numbers():
    base = draw_at(0, 0, 0).uniform("a", 1000)
    for other in (
        draw_at(1, 0, 0).uniform("a", 1000),
        draw_at(0, 1, 0).uniform("a", 1000),
        draw_at(0, 0, 1).uniform("a", 1000),
        draw_at(0, 0, 0).uniform("b", 1000),
    ):
        assert abs(np.corrcoef(base[0], other[0])[0, 1]) < 4 / 1000**0.5


def test_uniform_is_uniform():
    values = draw_of(1000).uniform("u", 100).flatten().numpy()
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3


def test_integers_cover_their_range_evenly():
    counts = torch.bincount(draw_of(1000).integers("i", 7, 70).flatten(), minlength=8)
    assert counts[7] == 0
    assert stats.chisquare(counts[:7].numpy()).pvalue > 1e-3


def test_permutations_are_permutations_and_uniform_over_places():
    order = draw_of(8000).permutation("p", 6)
    assert torch.equal(order.sort(1).values, torch.arange(6).expand(8000, 6))
    for place in range(6):
        assert stats.chisquare(torch.bincount(order[:, place], minlength=6).numpy()).pvalue > 1e-4
