"""What shows pictures to a language model: a resampler and layers behind gates (Alayrac et al. 2022, "Flamingo", section 2).

Linear layers have no biases, and begin with a standard deviation of (inputs)^-0.5: 0.02 at the width of large models.

Shapes: B pictures, N tokens of each, M vectors that sum it up, L tokens of text, D width of the pictures' vectors, W of text.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from objectives.captioning import num_heads


class Resampler(nn.Module):
    """A picture's tokens summed up: learned vectors that attend to them and to each other (section 2.1, figure 5).

    Args:
        width: D.
        num_latents: M.
        depth: layers.
    """

    def __init__(self, width: int, num_latents: int, depth: int):
        super().__init__()
        self.latents_MD = nn.Parameter(0.02 * torch.randn(num_latents, width))
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "context_norm": nn.LayerNorm(width),
                    "norm": nn.LayerNorm(width),
                    "attention": CrossAttention(width, width),
                    "mlp": mlp(width),
                }
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """(B, M, D)."""
        latents_BMD = self.latents_MD.expand(len(tokens_BND), -1, -1)
        for layer in self.layers:
            query_BMD = layer["norm"](latents_BMD)
            context_BKD = torch.cat([layer["context_norm"](tokens_BND), query_BMD], dim=1)
            latents_BMD = latents_BMD + layer["attention"](query_BMD, context_BKD)
            latents_BMD = latents_BMD + layer["mlp"](latents_BMD)
        return self.norm(latents_BMD)


class GatedLayer(nn.Module):
    """Attention to a picture and a feed-forward net, each behind tanh of a gate that is 0 at the start (section 2.2, figure 4).

    Args:
        width, context_width: W and D.
    """

    def __init__(self, width: int, context_width: int):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), CrossAttention(width, context_width)
        self.mlp = mlp(width)
        # one number each, but with a dimension: sharding knows no parameters without
        self.attention_gate, self.mlp_gate = (nn.Parameter(torch.zeros(1)) for _ in range(2))

    def gates(self) -> list[Tensor]:
        """What the two parts are multiplied by."""
        return [self.attention_gate.tanh(), self.mlp_gate.tanh()]

    def forward(self, hidden_BLW: Tensor, context_BMD: Tensor) -> Tensor:
        attention_gate, mlp_gate = self.gates()
        hidden_BLW = hidden_BLW + attention_gate * self.attention(self.norm(hidden_BLW), context_BMD)
        return hidden_BLW + mlp_gate * self.mlp(hidden_BLW)


class CrossAttention(nn.Module):
    """Attention with queries from one place and keys and values from another.

    Attributes:
        fused_attn: whether the kernel is PyTorch's own; `models.attention` sets it, as it does in timm's layers.
    """

    def __init__(self, width: int, context_width: int):
        super().__init__()
        self.num_heads, self.fused_attn = num_heads(width), True
        self.query, self.out = linear(width, width), linear(width, width)
        self.key_value = linear(context_width, 2 * width)

    def forward(self, query_BQW: Tensor, context_BKD: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in (self.query(query_BQW), *self.key_value(context_BKD).chunk(2, dim=2))
        )
        if self.fused_attn:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1) @ value
        return self.out(mixed.transpose(1, 2).flatten(2))


def mlp(width: int) -> nn.Sequential:
    """A norm, and a net that is four times as wide inside, with squared ReLU (appendix A.1)."""
    return nn.Sequential(nn.LayerNorm(width), linear(width, 4 * width), ACT2FN["relu2"], linear(4 * width, width))


def linear(width: int, out_width: int) -> nn.Linear:
    """Without biases, begun as this module's head says."""
    made = nn.Linear(width, out_width, bias=False)
    nn.init.normal_(made.weight, std=width**-0.5)
    return made
