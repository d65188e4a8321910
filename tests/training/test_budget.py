"""Budgets: exactly one, turned into steps; FLOPs as the hand formula says."""

import pytest
import torch
from conftest import image_batch

from errors import BadInput
from models.timm_encoder import TimmEncoder
from objectives.mae import MaskedAutoencoder
from objectives.simclr import SimCLR
from objectives.supervised import Supervised
from training.budget import Budget
from training.flops import forward_flops, sample_flops


@pytest.mark.parametrize(
    ("unit", "amount", "steps"),
    [("steps", 7, 7), ("epochs", 2, 25), ("epochs", 1, 13), ("samples", 100, 12), ("samples", 8, 1), ("flops", 8e9, 10)],
)
def test_steps(unit, amount, steps):
    # 100 samples an epoch, batches of 8; 1e8 FLOPs a sample
    assert Budget.of({unit: amount}, 1.0).num_steps(batch_size=8, num_train=100, sample_flops=1e8) == steps


def test_no_budget_means_the_default_compute():
    assert Budget.of({"steps": None, "epochs": None}, 1e13) == Budget("flops", 1e13)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"steps": 1, "epochs": 2}, "exactly one budget"),
        ({"steps": 0}, "positive"),
        ({"samples": -5}, "positive"),
        ({"epochs": "many"}, "positive"),
        ({"flops": float("nan")}, "positive"),
        ({"step": 1}, "did you mean steps"),
    ],
)
def test_what_is_no_budget_is_refused(asked, message):
    with pytest.raises(BadInput, match=message):
        Budget.of(asked, 1.0)


def test_less_than_one_step_is_refused():
    with pytest.raises(BadInput, match="smaller than one step"):
        Budget("samples", 7).num_steps(batch_size=8, num_train=100, sample_flops=1.0)


def vit_forward(width: int, depth: int, tokens: int, patches: int, pixels: int) -> float:
    """2 FLOPs a multiply-add: patch embedding, and in each block QKV, scores, mixing, projection, MLP of ratio 4."""
    block = tokens * (3 * width**2 + width**2 + 8 * width**2) + 2 * tokens**2 * width
    return 2 * (patches * pixels * width + depth * block)


def test_supervised_flops_equal_the_hand_formula(vit, spec):
    forward = vit_forward(192, 2, 65, 64, 48) + 2 * 192 * 3
    no_input_gradient = 2 * 64 * 48 * 192  # nothing asks for the gradient of the pixels
    counted = sample_flops(Supervised(vit, spec), image_batch(8, 1), 64)
    assert counted == pytest.approx(3 * forward - no_input_gradient, rel=0.02)
    assert forward_flops(vit, image_batch(1, 1)) == pytest.approx(vit_forward(192, 2, 65, 64, 48), rel=0.02)


def test_mae_flops_equal_the_hand_formula(vit, spec):
    mae = MaskedAutoencoder(vit, spec, decoder_width=64, decoder_depth=2, decoder_heads=2)
    encoder = vit_forward(192, 2, 17, 64, 48)
    decoder = vit_forward(64, 2, 65, 0, 0) + 2 * 17 * 192 * 64 + 2 * 48 * 64 * 48
    counted = sample_flops(mae, image_batch(8, 1), 64)
    assert counted == pytest.approx(3 * (encoder + decoder) - 2 * 64 * 48 * 192, rel=0.02)


def test_simclr_counts_both_views_and_all_pairs(vit, spec):
    simclr = SimCLR(vit, spec, projector_width=256)
    forward = 2 * (vit_forward(192, 2, 65, 64, 48) + 2 * (192 * 256 + 256 * 128))

    def by_hand(batch_size: int) -> float:
        pairs = 2 * (2 * batch_size) ** 2 * 128 / batch_size
        return 3 * forward - 2 * 2 * 64 * 48 * 192 + 3 * pairs

    for batch_size in (8, 4096):
        assert sample_flops(simclr, image_batch(8, 2), batch_size) == pytest.approx(by_hand(batch_size), rel=0.02)


def test_counting_leaves_the_objective_as_it_was(spec):
    encoder = TimmEncoder(spec, "resnet18")
    simclr = SimCLR(encoder, spec)
    before = {name: tensor.clone() for name, tensor in simclr.state_dict().items()}
    sample_flops(simclr, image_batch(8, 2), 8)
    assert all(torch.equal(before[name], tensor) for name, tensor in simclr.state_dict().items())
    assert all(weight.grad is None for weight in simclr.parameters())
