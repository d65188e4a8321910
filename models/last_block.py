"""The last block of timm's vision transformers, computed only at the tokens that are read of it.

Where a picture's vector is the class token, and where a decoder's output is needed at hidden patches only, the others still
are keys and values, but need no query, no projection and no feed-forward of their own. Nothing of the result changes.

Shapes: B pictures, L tokens, K of them asked for, D width, H heads, d their width.
"""

import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def allow_part(block: nn.Module) -> bool:
    """Let a block take `part`; False where it is of a kind that cannot. Weights and their names stay as they are."""
    if type(block) is Block and isinstance(block.attn, Attention) and block.attn.gate is None:
        block.__class__ = BlockOfPart
    return isinstance(block, BlockOfPart)


class BlockOfPart(Block):
    """A block whose output has only the tokens in the slice `part`, where that is given."""

    def forward(self, x_BLD: Tensor, *mask, part: slice | None = None, **settings) -> Tensor:
        if part is None:
            return super().forward(x_BLD, *mask, **settings)
        asked_BKD = x_BLD[:, part] + self.drop_path1(self.ls1(attend(self.attn, self.norm1(x_BLD), part)))
        return asked_BKD + self.drop_path2(self.ls2(self.mlp(self.norm2(asked_BKD))))


def attend(attention: Attention, x_BLD: Tensor, part: slice) -> Tensor:
    """(B, K, D): what an attention layer gives at the tokens in `part`, which see all."""
    weight, bias, width = attention.qkv.weight, attention.qkv.bias, attention.attn_dim
    query_BKD = F.linear(x_BLD[:, part], weight[:width], None if bias is None else bias[:width])
    both = F.linear(x_BLD, weight[width:], None if bias is None else bias[width:]).chunk(2, dim=-1)
    query, key, value = (x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for x in (query_BKD, *both))
    query, key = attention.q_norm(query), attention.k_norm(key)
    if attention.fused_attn:
        dropout = attention.attn_drop.p if attention.training else 0.0
        mixed_BHKd = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    else:
        scores = (query * attention.scale) @ key.transpose(-2, -1)
        mixed_BHKd = attention.attn_drop(scores.softmax(-1)) @ value
    return attention.proj_drop(attention.proj(attention.norm(mixed_BHKd.transpose(1, 2).flatten(2))))
