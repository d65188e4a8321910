"""Fast paths against slow ones: same loss and gradients, to 1e-5 in fp32 and 1e-2 in bf16 (or bf16's own error, if larger).

Slow is: every place of the last layer (of pictures: every token of the last block) and every logit in one product, and
PyTorch's fused attention instead of plain products.
"""

import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor

from benchmarks.cases.case import case_named
from models import last_layer
from models.attention import set_attention
from models.last_block import BlockOfPart
from objectives import causal_lm, token_head
from objectives.draw import Draw
from objectives.objective import Batch, Objective

CLOSE = {"fp32": 1e-5, "bf16": 1e-2}


def slow_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_N: Tensor) -> tuple[Tensor, Tensor]:
    logits_NV = F.linear(hidden_ND, weight_VD).float()
    logits_NV = logits_NV if bias_V is None else logits_NV + bias_V
    correct = ((logits_NV.argmax(1) == target_N) & (target_N >= 0)).sum()
    return F.cross_entropy(logits_NV, target_N, ignore_index=-100, reduction="sum"), correct


def gradients(objective: Objective, batch: Batch, precision: str) -> tuple[float, Tensor]:
    """(loss, all gradients in one vector)."""
    objective.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        loss = objective(batch, Draw(3, batch["epoch"], batch["index"])).loss
    loss.backward()
    return loss.item(), torch.cat([w.grad.flatten() for w in objective.parameters() if w.grad is not None])


@pytest.mark.parametrize("precision", CLOSE)
@pytest.mark.parametrize("name", ["mlm", "rtd", "span", "causal_lm", "mae", "clip"])
def test_fast_paths_give_the_slow_ones_loss_and_gradients(name, precision, monkeypatch):
    work = case_named(name).toy
    objective = work.build()
    batch = work.batches(objective).batch(0)
    set_attention(objective, "eager")
    fast_loss, fast = gradients(objective, batch, precision)

    set_attention(objective, "sdpa")
    monkeypatch.setattr(last_layer, "LAYERS", {})  # of none it is known how to compute some places only
    monkeypatch.setattr(BlockOfPart, "forward", lambda block, x, part=None: Block.forward(block, x)[:, part or slice(None)])
    for module in (causal_lm, token_head):
        monkeypatch.setattr(module, "linear_cross_entropy", slow_cross_entropy)
    slow_loss, slow = gradients(objective, batch, precision)
    assert not torch.equal(fast, slow)  # another way was taken
    assert fast_loss == pytest.approx(slow_loss, rel=CLOSE[precision])
    rounding = (slow - gradients(objective, batch, "fp32")[1]).norm()
    assert (fast - slow).norm() < max(CLOSE[precision] * slow.norm(), 1.5 * (precision == "bf16") * rounding)
