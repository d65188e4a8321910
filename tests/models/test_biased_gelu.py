"""The Triton kernels, run by Triton's interpreter, against float64; and which layers take them, and compute what they did."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.layers.activations import QuickGELU
from torch import Tensor, nn
from transformers import BertConfig, ElectraConfig, GPT2Config
from transformers.activations import ACT2FN
from transformers.models.bert.modeling_bert import BertIntermediate
from transformers.models.electra.modeling_electra import ElectraIntermediate
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP
from triton_interpreter import interpret

from models import biased_gelu
from models.biased_gelu import fuse_gelu, kind_of

FORMULAS = {
    "normal": F.gelu,
    "tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick": lambda x: x * torch.sigmoid(1.702 * x),
}
SHAPES = [(1, 1), (5, 64), (37, 300), (130, 520)]  # rows and columns: less than a tile, whole tiles, and a rest


def compare_all() -> None:
    from models.gelu_kernel import gelu, gelu_backward

    for kind, (shape, dtype) in product(FORMULAS, [*((shape, torch.float32) for shape in SHAPES), (SHAPES[1], torch.bfloat16)]):
        pre, bias, grad = inputs(shape, dtype)
        compare(kind, gelu(pre, bias, kind), *gelu_backward(pre, bias, grad, kind), pre, bias, grad)
    far = torch.tensor([[-300.0, -20.0, -6.0, 0.0, 6.0, 20.0, 300.0]])
    for kind in FORMULAS:
        slope, _ = gelu_backward(far, torch.zeros(7), torch.ones_like(far), kind)
        assert torch.allclose(gelu(far, torch.zeros(7), kind), far.clamp(min=0), atol=3e-4)
        assert torch.allclose(slope, (far > 0).float() + 0.5 * (far == 0), atol=1e-3)
        assert gelu(far[:0], torch.zeros(7), kind).shape == (0, 7)
        assert torch.equal(gelu_backward(far[:0], torch.zeros(7), far[:0], kind)[1], torch.zeros(7))
    compare_compiled()


def compare_compiled() -> None:
    """Autograd finds the backward pass, and the graph has no break."""
    compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
    for kind, function in product(FORMULAS, (biased_gelu.biased_gelu, compiled)):
        pre, bias, grad = inputs((6, 20), torch.float32)
        given = [pre.view(2, 3, 20).requires_grad_(), bias.requires_grad_()]
        act = function(*given, kind)
        act.backward(grad.view(2, 3, 20))
        compare(kind, act.view(6, 20), given[0].grad.view(6, 20), given[1].grad, pre, bias, grad)


def whole(pre: Tensor, bias: Tensor, kind: str) -> Tensor:
    return biased_gelu.biased_gelu(1 * pre, bias, kind)


def inputs(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(shape[0])
    pre, grad = (3 * torch.randn(*shape, generator=generator).to(dtype) for _ in range(2))
    return pre, torch.randn(shape[1], generator=generator), grad


def compare(kind: str, act: Tensor, grad_pre: Tensor, grad_bias: Tensor, pre: Tensor, bias: Tensor, grad: Tensor) -> None:
    exact = [pre.detach().double().requires_grad_(), bias.detach().double().requires_grad_()]
    expected = FORMULAS[kind](exact[0] + exact[1])
    expected.backward(grad.double())
    tolerance = 1e-6 if pre.dtype == torch.float32 else 4e-3
    for ours, theirs in ((act, expected), (grad_pre, exact[0].grad)):
        assert (ours - theirs).norm() <= tolerance * theirs.norm()
    assert grad_bias.dtype == torch.float32  # summed before it was rounded
    assert (grad_bias - exact[1].grad).norm() <= 1e-6 * exact[1].grad.norm()


@pytest.mark.long
def test_outputs_and_gradients_are_those_of_the_formulas(monkeypatch):
    interpret(compare_all, monkeypatch)


LAYERS = {
    "timm": lambda: Mlp(8, 20),
    "timm, tanh": lambda: Mlp(8, 20, act_layer=lambda: nn.GELU("tanh")),
    "timm, CLIP": lambda: Mlp(8, 20, act_layer=QuickGELU),
    "timm, a norm between": lambda: Mlp(8, 20, norm_layer=nn.LayerNorm),
    "bert": lambda: BertIntermediate(BertConfig(hidden_size=8, intermediate_size=20, num_attention_heads=2)),
    "electra": lambda: ElectraIntermediate(ElectraConfig(hidden_size=8, intermediate_size=20, num_attention_heads=2)),
    "gpt2": lambda: GPT2MLP(20, GPT2Config(n_embd=8, n_head=2, resid_pdrop=0.0, activation_function="gelu_pytorch_tanh")),
    "gpt2, CLIP": lambda: GPT2MLP(20, GPT2Config(n_embd=8, n_head=2, resid_pdrop=0.0, activation_function="quick_gelu")),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_it_did(name, monkeypatch):
    torch.manual_seed(0)
    layer = LAYERS[name]()
    for weight in layer.parameters():
        nn.init.normal_(weight)
    names = list(layer.state_dict())
    x = torch.randn(2, 3, 8)
    expected = learned(layer, x)
    fuse_gelu(layer)
    assert "forward" in vars(layer)
    assert list(layer.state_dict()) == names
    assert all(map(torch.equal, learned(layer, x), expected))  # where the kernel is not, the library's own way
    used = []

    def stand_in(pre: Tensor, bias: Tensor, kind: str) -> Tensor:
        used.append(kind)
        return FORMULAS[kind]((pre + bias).float()).to(pre.dtype)

    monkeypatch.setattr(biased_gelu, "DEVICE", "cpu")
    monkeypatch.setattr(biased_gelu, "biased_gelu", stand_in)
    assert all(map(torch.equal, learned(layer, x), expected))  # in float32
    assert not used
    layer.bfloat16()
    for ours, theirs in zip(learned(layer, x.bfloat16()), expected, strict=True):
        assert (ours - theirs).norm() < 2e-2 * theirs.norm()
    assert len(used) == 1


def learned(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs and all gradients."""
    given = x.clone().requires_grad_()
    layer.zero_grad()
    made = layer(given)
    made.square().sum().backward()
    return [made.detach(), given.grad, *(weight.grad.clone() for weight in layer.parameters())]


@pytest.mark.parametrize(
    "layer",
    [
        Mlp(8, 20, act_layer=nn.ReLU),
        Mlp(8, 20, bias=False),
        Mlp(8, 20, use_conv=True),
        BertIntermediate(BertConfig(hidden_size=8, intermediate_size=20, num_attention_heads=2, hidden_act="relu")),
    ],
    ids=["relu", "no bias", "convolution", "bert's relu"],
)
def test_other_layers_stay_as_they_are(layer):
    fuse_gelu(layer)
    assert not any("forward" in vars(part) for part in layer.modules())


def test_gelus_are_known_by_what_they_compute():
    """Every activation of transformers that is taken for one of the three is that one, and all exact GELUs are taken."""
    x = torch.linspace(-4, 4, 101)
    found = {name: kind_of(ACT2FN[name]) for name in ACT2FN}
    for name, kind in found.items():
        if kind is not None:
            assert torch.allclose(ACT2FN[name](x), FORMULAS[kind](x), atol=1e-6), name
    assert {name for name, kind in found.items() if kind} >= {"gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu"}
