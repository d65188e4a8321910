"""Floating-point operations of the real training step, as PyTorch's counter sees them: forward, backward, all networks."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.attention import set_attention
from models.encoder import Encoder
from objectives.draw import Draw
from objectives.objective import Objective

SMALL, LARGE = 4, 8  # samples


def _addmm(total: tuple[int, ...], first: tuple[int, int], second: tuple[int, int], **_: object) -> int:
    """Of `total.addmm_(first, second)`, by their shapes."""
    return 2 * first[0] * first[1] * second[1]


UNKNOWN = {torch.ops.aten.addmm_: _addmm}  # to PyTorch's counter; linear_cross_entropy sums gradients in place


def sample_flops(objective: Objective, batch: dict[str, Tensor], batch_size: int) -> float:
    """FLOPs of one training step at `batch_size`, per sample.

    Counted on two small batches: a step costs a·B + b·B² FLOPs (b from losses that compare samples with each other), and
    two counts determine both. Counted on a copy.

    Args:
        batch: a training batch with at least two samples; its first ones are used.
    """
    trial = copy.deepcopy(objective)
    available = len(batch["index"])
    large = min(LARGE, available)
    small = min(SMALL, large // 2)
    if small < 2:  # a single sample has no other to be compared with, and batch norms have no statistics of it
        return _count(trial, batch, available) / available
    count_small, count_large = _count(trial, batch, small), _count(trial, batch, large)
    quadratic = (count_large / large - count_small / small) / (large - small)
    linear = count_small / small - quadratic * small
    return linear + quadratic * batch_size


def forward_flops(encoder: Encoder, batch: dict[str, Tensor]) -> float:
    """FLOPs of one sample's forward pass through the encoder."""
    trial = copy.deepcopy(encoder).eval()
    with _plain_kernels(trial), FlopCounterMode(display=False, custom_mapping=UNKNOWN) as counter, torch.no_grad():
        trial(trial.inputs(first_samples(batch, 1)))
    return float(counter.get_total_flops())


def _count(objective: Objective, batch: dict[str, Tensor], num_samples: int) -> int:
    part = first_samples(batch, num_samples)
    with _plain_kernels(objective), FlopCounterMode(display=False, custom_mapping=UNKNOWN) as counter, torch.enable_grad():
        objective(part, Draw(0, part["epoch"], part["index"])).loss.backward()
    objective.zero_grad(set_to_none=True)
    return counter.get_total_flops()


@contextmanager
def _plain_kernels(module: nn.Module) -> Iterator[None]:
    """Inside, `module` runs on what the counter knows: it sees nothing in fused attention on a CPU, nor in fused LSTMs."""
    set_attention(module, "eager")
    recurrent = any(isinstance(layer, nn.RNNBase) for layer in module.modules())
    libraries = (torch.backends.mkldnn, torch.backends.cudnn)
    before = [library.enabled for library in libraries]
    for library in libraries:
        library.enabled &= not recurrent
    try:
        yield
    finally:
        for library, enabled in zip(libraries, before, strict=True):
            library.enabled = enabled


def first_samples(batch: dict[str, Tensor], num_samples: int) -> dict[str, Tensor]:
    """The batch cut to its first samples."""
    return {key: value[:num_samples] if value.ndim else value for key, value in batch.items()}
