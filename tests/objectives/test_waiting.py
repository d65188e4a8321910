"""No step asks what a GPU would have to answer before the next kernel can start: the host must stay ahead of it.

Seen on a CPU, where the same operations read a tensor's values.
"""

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.works import Work
from models import fused
from objectives.draw import Draw

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
ASKING = {
    "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique2",
    "aten::unique_dim", "aten::repeat_interleave.Tensor",
}  # fmt: skip


class Questions(TorchDispatchMode):
    """Where operations are called whose result, or its shape, depends on values that the host must know."""

    def __init__(self):
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.name()
        if name in ASKING or (name.startswith("aten::index") and by_mask(args[1])):
            lines = [frame.line or "" for frame in traceback.extract_stack()]
            if not any("F.one_hot" in line for line in lines):  # which looks for wrong classes on a CPU only
                self.asked.append(f"{name}: {' < '.join(reversed(lines[-8:-1]))}")
        return operation(*args, **(kwargs or {}))


def by_mask(indices) -> bool:
    """Whether some index is a mask, of which only the values say how many rows it takes."""
    given = indices if isinstance(indices, list | tuple) else [indices]
    return any(isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in given)


@pytest.mark.parametrize("name", WORKS)
def test_a_step_asks_nothing_that_a_gpu_would_wait_for(name, monkeypatch):
    monkeypatch.setattr(fused, "_compiled", lambda function: function)
    monkeypatch.setattr(fused, "_compiling", True)  # as on a GPU: of colours, both ways are there
    objective = WORKS[name].build()
    batch = WORKS[name].batches(objective).batch(0)
    with Questions() as questions:
        objective(batch, Draw(0, batch["epoch"], batch["index"])).loss.backward()
        objective.after_step(0.5)
    assert questions.asked == []


def test_questions_are_heard():
    mask = torch.tensor([True, False])
    with Questions() as questions:
        torch.ones(2)[mask]
        mask.any().item()
        bool(mask.all())
    assert len(questions.asked) == 3
