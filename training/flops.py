"""Floating-point operations of the real training step, as PyTorch's counter sees them: forward, backward, all networks.

Shapes: L tokens, B samples, D width of an LSTM's input, H of its state, G of its gates; a product's N x K by K x M.
"""

import copy
import statistics
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from datamodules.contract import Data
from models.attention import set_attention
from models.encoder import Encoder
from objectives.draw import Draw
from objectives.objective import Batch, Objective

LARGE = 8  # samples
SEEN = 32  # batches of text among which a typical one is looked for
CAPTIONED = 64  # samples that are read for the usual length of captions
QUARTER = 1 << 62  # of the range of 64 bits
Network = TypeVar("Network", bound=nn.Module)


class Counter(TorchDispatchMode):
    """FLOPs of the matrix products and convolutions inside, by PyTorch's formulas and those of `FORMULAS`.

    PyTorch's own `FlopCounterMode` keeps books on every module besides, which takes DINO's start two seconds longer.
    """

    total = 0

    def __torch_dispatch__(self, function: OpOverload, types: object, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        operation = function._overloadpacket
        if operation in FORMULAS:
            self.total += FORMULAS[operation](*args)
        elif operation in flop_registry:
            self.total += flop_registry[operation](*args, **(kwargs or {}), out_val=result)
        return result


def sum_flops(total_NM: Tensor, left_NK: Tensor, right_KM: Tensor) -> int:
    """Of a product that is added in place, as linear_cross_entropy's gradients are."""
    return 2 * left_NK.shape[0] * right_KM.numel()


def convolution_backward_flops(grad: Tensor, x: Tensor, weight: Tensor, *settings: Any) -> int:
    """Each gradient asked for costs what the convolution did; PyTorch's formula gives that of the weights no groups."""
    *_, transposed, _output_padding, _groups, asked = settings
    return sum(asked[:2]) * 2 * (x if transposed else grad)[:, 0].numel() * weight.numel()


def lstm_flops(input_LBD: Tensor, weight_GD: Tensor, weight_GH: Tensor, *_: Any) -> int:
    """Of one layer in one direction: every token and every state but the last go through a matrix each."""
    length, batch, _ = input_LBD.shape
    return 2 * length * batch * (weight_GD.numel() + weight_GH.numel())


def lstm_backward_flops(input_LBD: Tensor, weight_GD: Tensor, weight_GH: Tensor, *_: Any) -> int:
    """Gradients of both factors of each product, but for the first state, which is a constant."""
    return 2 * lstm_flops(input_LBD, weight_GD, weight_GH) - 2 * input_LBD.shape[1] * weight_GH.numel()


FORMULAS = {
    torch.ops.aten.addmm_: sum_flops,
    torch.ops.aten.convolution_backward: convolution_backward_flops,
    torch.ops.aten.mkldnn_rnn_layer: lstm_flops,
    torch.ops.aten.mkldnn_rnn_layer_backward: lstm_backward_flops,
}
"""Where PyTorch has none, or one that is wrong. By them an LSTM is counted without being taken to pieces, token by token."""


class EvenDraw(Draw):
    """Choices spread evenly over the samples of a count, the same whatever the samples are.

    Numbers are turned by a quarter of their range from pair to pair, and in a pair one is as high as the other is low. So a
    pair costs the mean where cost rises evenly with a choice, as with the length of a prefix.

    Args:
        place_B: of the samples in the batch.
    """

    def __init__(self, epoch_B: Tensor, index_B: Tensor, place_B: Tensor):
        super().__init__(0, epoch_B, index_B)
        self.key_B, self.place_B = torch.zeros_like(place_B), place_B

    def bits(self, name: str, *shape: int) -> Tensor:
        place_B = self.place_B.view(-1, *(1 for _ in shape))
        bits = super().bits(name, *shape) + place_B // 2 * QUARTER
        return torch.where(place_B % 2 == 0, bits, ~bits)

    def integers(self, name: str, high: int | Tensor, *shape: int) -> Tensor:
        """In the order of the bits, which a modulus does not keep."""
        return (self.uniform(name, *shape).double() * high).long()


def typical_batch(data: Data, view: Callable[..., Any] | None, seed: int) -> Batch:
    """At most LARGE training samples, in rows as long as those of the training batches are on average.

    A batch is filled up to its longest row, and rows of about one length are put together, so that a step on short texts can
    cost a tenth of one on long ones. Of texts the batch is taken whose rows are next to the mean length; pictures, which take
    long to read, are not sorted by their captions, so that any batch will do.

    Args:
        view: of the objective, as `Data.train_loader` takes it.
    """
    few = next(iter(data.train_loader(view, seed, 1, batch_size=min(LARGE, data.batch_size))))
    if "present" not in few:
        return few
    if data.modality == "image_text":
        batches = list(data.train_loader(view, seed, 1, batch_size=min(CAPTIONED, data.batch_size)))
    else:
        batches = list(data.train_loader(view, seed, SEEN))
    mean = statistics.mean(batch["ids"].shape[1] for batch in batches)
    typical = min(batches, key=lambda batch: abs(batch["ids"].shape[1] - mean))
    return samples_of(typical, range(min(LARGE, len(typical["index"]))))


def sample_flops(objective: Objective, batch: Batch, batch_size: int) -> float:
    """FLOPs of one training step at `batch_size`, per sample.

    Counted on small batches: a step costs a·B + b·B² FLOPs, b from losses that compare samples with each other. b is what a
    pair costs beyond twice itself when each is there twice. Choices are spread evenly over the samples. Where another pair
    nevertheless does not cost the same, because a differs by sample, a is the mean of all that are there. Counted on a copy.

    Args:
        batch: a training batch; its first LARGE samples are used.
    """
    trial = trial_copy(objective)
    set_attention(trial, "eager")  # the counter sees nothing in fused attention on a CPU
    num = min(LARGE, len(batch["index"]))
    if num < 2:  # a single sample has no other to be compared with, and batch norms have no statistics of it
        return float(_count(trial, batch, [0]))
    pair, twice = _count(trial, batch, [0, 1]), _count(trial, batch, [0, 1, 0, 1])
    quadratic = (twice - 2 * pair) / 8
    if num < 4 or _count(trial, batch, [2, 3]) == pair:
        return pair / 2 + quadratic * (batch_size - 2)
    return _count(trial, batch, range(num)) / num + quadratic * (batch_size - num)


def trial_copy(module: Network) -> Network:
    """With buffers and modes of its own; the weights, which a count does not move, are the module's."""
    return copy.deepcopy(module, {id(weight): weight for weight in module.parameters()})


def forward_flops(encoder: Encoder, batch: Batch) -> float:
    """FLOPs of one sample's forward pass through the encoder."""
    trial = trial_copy(encoder).eval()
    set_attention(trial, "eager")
    with Counter() as counter, torch.no_grad():
        trial(trial.inputs(samples_of(batch, range(1))))
    return float(counter.total)


def _count(objective: Objective, batch: Batch, chosen: Sequence[int]) -> int:
    part = samples_of(batch, chosen)
    draw = EvenDraw(part["epoch"], part["index"], torch.tensor(chosen, device=part["index"].device))
    with Counter() as counter, torch.enable_grad():
        objective(part, draw).loss.backward()
    objective.zero_grad(set_to_none=True)
    return counter.total


def samples_of(batch: Batch, chosen: Sequence[int]) -> Batch:
    """Some of the samples of a batch, by their place in it."""
    return {key: value[list(chosen)] if value.ndim else value for key, value in batch.items()}
