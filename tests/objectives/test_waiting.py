"""No step asks what a GPU would have to answer before the next kernel can start: the host must stay ahead of it.

Seen on a CPU, where the same operations read a tensor's values, and on a GPU that is only pretended.
"""

import traceback

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.works import Work
from models import fused
from objectives import linear_cross_entropy
from objectives.draw import Draw
from objectives.objective import Batch, Objective

IMAGE = {"batch": 4, "image_size": 32}
TEXT = {"batch": 4, "length": 16, "vocabulary": 160}
WORKS = {
    "byol": Work("byol", "resnet18", **IMAGE),
    "causal_lm": Work("causal_lm", "gpt_mini", **TEXT),
    "causal_lm of llama": Work("causal_lm", "llama_mini", **TEXT),
    "clip": Work("clip", "clip_vit_b", **TEXT, image_size=32, words=("model.name=vit_tiny_patch16_224",)),
    "mae": Work("mae", "vit_t", **IMAGE),
    "mlm": Work("mlm", "bert_mini", **TEXT),
    "mlm of ModernBERT": Work("mlm", "modernbert_mini", **TEXT),
    "moco_v3": Work("moco_v3", "vit_t", **IMAGE),
    "permutation_lm": Work("permutation_lm", "bert_mini", **TEXT),
    "rtd": Work("rtd", "bert_mini", **TEXT),
    "simclr": Work("simclr", "resnet18", **IMAGE),
    "span": Work("span", "bert_mini", **TEXT),
    "vicreg": Work("vicreg", "resnet18", **IMAGE),
}
ALIKE = ("causal_lm of llama", "mlm of ModernBERT", "moco_v3", "vicreg")
ASKING = {
    "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique2",
    "aten::unique_dim", "aten::repeat_interleave.Tensor", "aten::lift_fresh",  # the last is torch.tensor's
}  # fmt: skip


class Questions(TorchDispatchMode):
    """Where operations are called whose result, or its shape, depends on values that the host must know, or comes from it."""

    def __init__(self):
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name, made = operation.name(), operation(*args, **(kwargs or {}))
        moves = (name == "aten::_to_copy" and made.device != args[0].device) or (
            name == "aten::copy_" and made.device != args[1].device
        )
        if moves or name in ASKING or (name.startswith("aten::index") and by_mask(args[1])):
            lines = [frame.line or "" for frame in traceback.extract_stack()]
            if not any("F.one_hot" in line for line in lines):  # which looks for wrong classes on a CPU only
                self.asked.append(f"{name}: {' < '.join(reversed(lines[-8:-1]))}")
        return made


def by_mask(indices) -> bool:
    """Whether some index is a mask, of which only the values say how many rows it takes."""
    given = indices if isinstance(indices, list | tuple) else [indices]
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in given)


def loss_of(objective: Objective, batch: Batch) -> Tensor:
    return objective(batch, Draw(0, batch["epoch"], batch["index"])).loss


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """Of colours, both ways are there, and the loss of many classes is what needs no GPU."""
    monkeypatch.setattr(fused, "_compiled", lambda function: function)
    monkeypatch.setattr(fused, "_compiling", True)
    monkeypatch.setattr(linear_cross_entropy, "has_triton", lambda device: False)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) if name in ALIKE else name for name in WORKS])
def test_a_step_asks_nothing_that_a_gpu_would_wait_for(name):
    objective = WORKS[name].build()
    batch = WORKS[name].batches(objective).batch(0)
    loss_of(objective, batch)  # tables that are the same in every step are made in the first
    with Questions() as questions:
        loss_of(objective, batch).backward()
        objective.after_step(0.5)
    assert questions.asked == []


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) if name in ALIKE else name for name in WORKS])
def test_a_forward_pass_copies_nothing_to_a_gpu(name):
    objective = WORKS[name].build()
    batch = WORKS[name].batches(objective).batch(0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        pretend(objective)
        batch = {key: torch.empty_like(value, device="cuda") for key, value in batch.items()}
        loss_of(objective, batch)
        with Questions() as questions:
            assert loss_of(objective, batch).device.type == "cuda"
    assert questions.asked == []


def pretend(module: nn.Module) -> None:
    """Weights and buffers are on a GPU, of which there need not be one: they have shapes, and no values."""
    for part in module.modules():
        for kept in (part._parameters, part._buffers):
            for name, value in kept.items():
                if value is not None:
                    moved = torch.empty_like(value, device="cuda")
                    kept[name] = nn.Parameter(moved, value.requires_grad) if isinstance(value, nn.Parameter) else moved


def test_questions_are_heard():
    mask = torch.tensor([True, False])
    with Questions() as questions:
        torch.ones(2)[mask]
        mask.any().item()
        bool(mask.all())
        torch.tensor([1, 2])
    assert len(questions.asked) == 4
    with FakeTensorMode(), Questions() as questions:
        torch.ones(3).to("cuda")
    assert len(questions.asked) == 1
