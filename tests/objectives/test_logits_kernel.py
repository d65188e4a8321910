"""The Triton kernel, run by Triton's interpreter on a CPU, against PyTorch's own passes; tests/gpu has it on a GPU."""

from types import ModuleType

import pytest
import torch
from triton_interpreter import interpret

from objectives.linear_cross_entropy import FILLED_TO, pass_by_pass

ROWS = 9


def compare_all() -> None:
    from objectives import logits_kernel

    logits_kernel.BLOCK = 64
    for blocks, num_classes, dtype in [
        (2, 17, torch.float32),  # less than a block
        (2, 64, torch.float32),  # a block, one too few to be read at once
        (2, 100, torch.float32),
        (2, 128, torch.float32),  # two at once, and nothing else
        (2, 300, torch.float32),
        (1, 200, torch.float32),
        (2, 300, torch.bfloat16),
    ]:
        logits_kernel.BLOCKS = {False: blocks, True: blocks}
        for with_bias in [False, True]:
            compare(logits_kernel, num_classes, with_bias, dtype)


def compare(logits_kernel: ModuleType, num_classes: int, with_bias: bool, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(ROWS, num_classes, generator=generator)).to(dtype)
    bias = torch.randn(num_classes, generator=generator) if with_bias else None
    target = torch.randint(num_classes, (ROWS,), generator=generator)
    target[::4] = -100
    target[1] = (logits[1] + (0 if bias is None else bias)).argmax()
    filled = torch.full((ROWS, num_classes + -num_classes % FILLED_TO), 7.0, dtype=dtype)
    filled[:, :num_classes] = logits
    untouched = filled.clone()
    nats, right, nothing = logits_kernel.softmax_gradient(filled, bias, target, num_classes, False)
    assert nothing is None
    assert torch.equal(filled, untouched)
    nats_too, right_too, gradient = logits_kernel.softmax_gradient(filled, bias, target, num_classes, True)
    expected_nats, expected_right, expected = pass_by_pass(logits, bias, target, num_classes, True)
    assert nats == nats_too
    assert right == right_too == expected_right > 0
    torch.testing.assert_close(nats, expected_nats)
    torch.testing.assert_close(gradient[:, :num_classes], expected.to(dtype))
    assert (gradient[:, num_classes:] == 0).all()


@pytest.mark.long
def test_loss_number_right_and_gradient_equal(monkeypatch):
    interpret(compare_all, monkeypatch)
