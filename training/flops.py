"""Floating-point operations of the real training step, as PyTorch's counter sees them: forward, backward, all networks."""

import copy

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.attention import set_attention
from models.encoder import Encoder
from objectives.draw import Draw
from objectives.objective import Objective

SMALL, LARGE = 4, 8  # samples


def sample_flops(objective: Objective, batch: dict[str, Tensor], batch_size: int) -> float:
    """FLOPs of one training step at `batch_size`, per sample.

    Counted on two small batches: a step costs a·B + b·B² FLOPs (b from losses that compare samples with each other), and
    two counts determine both. Counted on a copy with plain attention, because the counter knows no fused CPU kernels.

    Args:
        batch: a training batch with at least two samples; its first ones are used.
    """
    trial = copy.deepcopy(objective)
    set_attention(trial, "eager")
    available = len(batch["index"])
    large = min(LARGE, available)
    small = min(SMALL, large // 2)
    if small < 2:  # batch norms have no statistics of one sample
        return _count(trial, batch, available) / available
    count_small, count_large = _count(trial, batch, small), _count(trial, batch, large)
    quadratic = (count_large / large - count_small / small) / (large - small)
    linear = count_small / small - quadratic * small
    return linear + quadratic * batch_size


def forward_flops(encoder: Encoder, batch: dict[str, Tensor]) -> float:
    """FLOPs of one sample's forward pass through the encoder."""
    trial = copy.deepcopy(encoder).eval()
    set_attention(trial, "eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trial(trial.inputs(first_samples(batch, 1)))
    return float(counter.get_total_flops())


def _count(objective: Objective, batch: dict[str, Tensor], num_samples: int) -> int:
    part = first_samples(batch, num_samples)
    with FlopCounterMode(display=False) as counter, torch.enable_grad():
        objective(part, Draw(0, part["epoch"], part["index"])).loss.backward()
    objective.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def first_samples(batch: dict[str, Tensor], num_samples: int) -> dict[str, Tensor]:
    """The batch cut to its first samples."""
    return {key: value[:num_samples] if value.ndim else value for key, value in batch.items()}
