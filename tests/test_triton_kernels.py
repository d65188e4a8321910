"""What Triton's interpreter does not show: that a GPU's compiler takes the kernels, and in half precision all of them together.

Compiled for Hopper, which needs no GPU; together in float16, since the interpreter multiplies bfloat16's bits.
"""

from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from triton_interpreter import interpret

from benchmarks.works import Work
from models.attention import set_attention
from objectives.draw import Draw
from objectives.objective import Batch, Objective

MOST_SHARED_MEMORY = 232448  # bytes for a program on Hopper

CONFIGURATIONS = {
    "a head of 50 tokens": ("_attend", {"N": 50, "d": 64}),
    "a head of 197 tokens": ("_attend", {"N": 197, "d": 32}),
    "a wide head of 256 tokens": ("_attend", {"N": 256, "d": 64}),
    "back through 50 tokens": ("_attend_backward", {"N": 50, "d": 64}),
    "back through 197 tokens": ("_attend_backward_tiled", {"N": 197, "d": 32}),
    "back through 256 tokens, wide heads": ("_attend_backward_tiled", {"N": 256, "d": 64}),
    "GELU": ("_gelu", {"kind": "normal"}),
    "back through GELU": ("_gelu_backward", {"kind": "normal"}),
    "tanh": ("_gelu", {"kind": "tanh"}),
    "back through tanh": ("_gelu_backward", {"kind": "tanh"}),
    "CLIP's": ("_gelu", {"kind": "quick"}),
    "back through CLIP's": ("_gelu_backward", {"kind": "quick"}),
    "logits": ("_softmax_row", {"has_bias": False, "learns": True}),
    "logits with a bias": ("_softmax_row", {"has_bias": True, "learns": True}),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_hopper_takes_the_kernel(name):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, constants, options = configured(*CONFIGURATIONS[name])
    signature = {argument: kind_of_argument(argument, constants) for argument in kernel.arg_names}
    aligned = {(place,): [["tt.divisibility", 16]] for place, kind in enumerate(signature.values()) if kind.startswith("*")}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)  # as PyTorch's memory is
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert made.asm["cubin"]
    assert made.metadata.shared <= MOST_SHARED_MEMORY


def configured(name: str, chosen: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(kernel, its constants, how it is compiled), as its module starts it."""
    from models import gelu_kernel, short_attention_kernel
    from objectives import logits_kernel

    if name.startswith("_attend"):
        launch = short_attention_kernel.forward_launch if name == "_attend" else short_attention_kernel.backward_launch
        padded, N = short_attention_kernel.padded, chosen["N"]
        tile = short_attention_kernel.ONE_TILE
        constants = chosen | {
            "H": 4,
            "keys": padded(N),
            "tile": min(tile, padded(N)),
            "rest": padded(N % tile),
            "keeps_total": tile < N,
        }
        kernel, options = getattr(short_attention_kernel, name), short_attention_kernel._options(launch(N, chosen["d"]))
    elif name.startswith("_gelu"):
        constants = chosen | {"C": 3072, "ptx": True, "rows": gelu_kernel.ROWS, "columns": gelu_kernel.COLUMNS}
        kernel, options = getattr(gelu_kernel, name), {"num_warps": gelu_kernel.WARPS}
    else:
        constants = chosen | {"group": 8, "block": logits_kernel.BLOCK, "blocks": logits_kernel.BLOCKS[chosen["has_bias"]]}
        constants |= {} if chosen["has_bias"] else {"bias_at": None}
        kernel, options = getattr(logits_kernel, name), {"num_warps": logits_kernel.WARPS}
    return kernel, {name: value for name, value in constants.items() if name in kernel.arg_names}, options


def kind_of_argument(name: str, constants: dict[str, Any]) -> str:
    if name in constants:
        return "constexpr"
    if not name.endswith("_at"):
        return "i32"
    kept_in_float32 = ("log_total_at", "mean_at", "sums_at", "bias_at", "nats_at", "right_at")
    return "*i64" if name == "target_at" else "*fp32" if name in kept_in_float32 else "*bf16"


TEXT = {"batch": 2, "length": 16, "vocabulary": 160}
WORKS = {
    "gpt2": Work("causal_lm", "gpt_mini", **TEXT),
    "bert": Work("mlm", "bert_mini", **TEXT),
    "vit": Work("mae", "vit_t", batch=2, image_size=32, words=("model.depth=2", "objective.decoder_depth=2")),
}


@pytest.mark.long
@pytest.mark.parametrize("name", WORKS)
def test_compiled_blocks_with_all_kernels_have_no_break_and_learn_the_same(name, monkeypatch):
    interpret(partial(compare_compiled, name), monkeypatch)


def compare_compiled(name: str) -> None:
    from models import biased_gelu, short_attention
    from training.arrangement import Arrangement

    biased_gelu.DEVICE = "cpu"
    short_attention.has_kernel = lambda *_: True
    torch.compile = partial(torch.compile, backend="aot_eager", fullgraph=True)
    used = [counted(biased_gelu, "biased_gelu_backward"), counted(short_attention, "attend_backward")]
    objective = WORKS[name].build()
    batch = WORKS[name].batches(objective).batch(0)
    set_attention(objective, "sdpa")
    loss, gradient = learned(objective, batch)
    assert not any(used)
    set_attention(objective, "short")
    biased_gelu.fuse_gelu(objective)
    Arrangement(compile=True, half_stream=True, precision="fp16").apply(objective, None)
    compiled_loss, compiled_gradient = learned(objective, batch)
    assert [bool(times) for times in used] == [True, name == "vit"]
    assert abs(compiled_loss - loss) < 1e-3 * loss
    assert (compiled_gradient - gradient).norm() < 1e-2 * gradient.norm()


def counted(module: ModuleType, name: str) -> list[int]:
    """A list that grows with every call of a module's function."""
    times, own = [], getattr(module, name)
    setattr(module, name, lambda *given: times.append(1) or own(*given))
    return times


def learned(objective: Objective, batch: Batch) -> tuple[float, torch.Tensor]:
    """(loss, all gradients in one vector) with products in float16."""
    objective.zero_grad()
    with torch.autocast("cpu", torch.float16):
        loss = objective(batch, Draw(0, batch["epoch"], batch["index"])).loss
    loss.backward()
    return loss.item(), torch.cat([weight.grad.flatten() for weight in objective.parameters() if weight.grad is not None])
