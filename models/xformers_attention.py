"""xFormers' attention in timm's models."""

from timm.layers import Attention
from torch import Tensor


class XformersAttention(Attention):
    """timm's attention layer with xFormers' memory-efficient kernel; masks are not used in image encoders."""

    kernel = "xformers"

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        from xformers.ops import LowerTriangularMask, memory_efficient_attention

        batch, length, _ = x.shape
        query, key, value = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim).unbind(2)
        query, key = self.q_norm(query).to(value.dtype), self.k_norm(key).to(value.dtype)
        bias = LowerTriangularMask() if is_causal else attn_mask
        dropout = self.attn_drop.p if self.training else 0.0
        mixed = memory_efficient_attention(query, key, value, attn_bias=bias, p=dropout)
        mixed = self.norm(mixed.reshape(batch, length, self.attn_dim))
        if self.gate is not None:
            mixed = mixed * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(mixed))
