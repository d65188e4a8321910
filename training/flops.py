"""Floating-point operations of the real training step, as PyTorch's counter sees them: forward, backward, all networks."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from models.attention import set_attention
from models.encoder import Encoder
from objectives.draw import Draw
from objectives.objective import Objective

LARGE = 8  # samples
Network = TypeVar("Network", bound=nn.Module)


class Counter(TorchDispatchMode):
    """FLOPs of the matrix products and convolutions inside, by PyTorch's formulas.

    PyTorch's own `FlopCounterMode` keeps books on every module besides, which takes DINO's start two seconds longer.
    """

    total = 0

    def __torch_dispatch__(self, function: OpOverload, types: object, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        elif function._overloadpacket is torch.ops.aten.addmm_:  # unknown to them; linear_cross_entropy sums gradients in place
            self.total += 2 * args[1].shape[0] * args[1].shape[1] * args[2].shape[1]
        return result


def sample_flops(objective: Objective, batch: dict[str, Tensor], batch_size: int) -> float:
    """FLOPs of one training step at `batch_size`, per sample.

    Counted on small batches: a step costs a·B + b·B² FLOPs, b from losses that compare samples with each other. b is what a
    pair costs beyond twice itself when each is there twice. Where another pair does not cost the same, because a differs by
    sample, as by the lengths of prefixes, a is the mean of all that are there. Counted on a copy.

    Args:
        batch: a training batch; its first LARGE samples are used.
    """
    trial = trial_copy(objective)
    num = min(LARGE, len(batch["index"]))
    if num < 2:  # a single sample has no other to be compared with, and batch norms have no statistics of it
        return float(_count(trial, batch, [0]))
    pair, twice = _count(trial, batch, [0, 1]), _count(trial, batch, [0, 1, 0, 1])
    quadratic = (twice - 2 * pair) / 8
    if num < 4 or _count(trial, batch, [num - 2, num - 1]) == pair:
        return pair / 2 + quadratic * (batch_size - 2)
    return _count(trial, batch, range(num)) / num + quadratic * (batch_size - num)


def trial_copy(module: Network) -> Network:
    """With buffers and modes of its own; the weights, which a count does not move, are the module's."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})


def forward_flops(encoder: Encoder, batch: dict[str, Tensor]) -> float:
    """FLOPs of one sample's forward pass through the encoder."""
    trial = trial_copy(encoder).eval()
    with _plain_kernels(trial), Counter() as counter, torch.no_grad():
        trial(trial.inputs(samples_of(batch, range(1))))
    return float(counter.total)


def _count(objective: Objective, batch: dict[str, Tensor], chosen: Sequence[int]) -> int:
    part = samples_of(batch, chosen)
    with _plain_kernels(objective), Counter() as counter, torch.enable_grad():
        objective(part, Draw(0, part["epoch"], part["index"])).loss.backward()
    objective.zero_grad(set_to_none=True)
    return counter.total


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


def samples_of(batch: dict[str, Tensor], chosen: Sequence[int]) -> dict[str, Tensor]:
    """Some of the samples of a batch, by their place in it."""
    return {key: value[list(chosen)] if value.ndim else value for key, value in batch.items()}
