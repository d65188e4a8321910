"""The last layer of networks like BERT, ModernBERT or GPT-2, computed only at the places that are asked for.

A masked objective reads the last layer at 15 % of the places, a tower of CLIP at one. Keys and values are needed from
everywhere, but queries, the projection behind attention and the whole feed-forward are not: most of a layer is saved, and
nothing of the result changes.

Shapes: B rows, L tokens a row, K places asked for, D width, H heads, d their width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertLayer, eager_attention_forward
from transformers.models.electra.modeling_electra import ElectraLayer
from transformers.models.gpt2.modeling_gpt2 import GPT2Block
from transformers.models.gpt2.modeling_gpt2 import eager_attention_forward as gpt2_eager_attention
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer, rotate_half

from models.encoder import take


def hidden_at(net: PreTrainedModel, arguments: dict, place_BK: Tensor) -> Tensor:
    """(B, K, D): the network's last hidden vectors at some places; an architecture that cannot do less computes them all."""
    if net.config.model_type not in LAYERS:
        return take(net(**arguments).last_hidden_state, place_BK)
    return net(**arguments, place_BK=place_BK).last_hidden_state[:, : place_BK.shape[1]]


def allow_places(net: PreTrainedModel) -> None:
    """Let the last layer of a network take `place_BK`; its weights and their names stay as they are."""
    if net.config.model_type in LAYERS:
        layers, kind = LAYERS[net.config.model_type]
        net.get_submodule(layers)[-1].__class__ = kind


class AtPlaces(nn.Module):
    """A layer whose output has K places where `place_BK` (B, K) is given, else all L."""

    def forward(self, hidden_BLD: Tensor, attention_mask: Tensor | None = None, *rest, place_BK=None, **settings) -> Tensor:
        if place_BK is None:
            return super().forward(hidden_BLD, attention_mask, *rest, **settings)
        asked_BKD = take(hidden_BLD, place_BK)
        mixed_BKD = self._attend(asked_BKD, hidden_BLD, rows_of(attention_mask, place_BK))
        return self.feed_forward_chunk(self.attention.output(mixed_BKD, asked_BKD))

    def _attend(self, asked_BKD: Tensor, hidden_BLD: Tensor, mask: Tensor | None) -> Tensor:
        attention = self.attention.self
        query, key, value = (
            project(x).unflatten(-1, (-1, attention.attention_head_size)).transpose(1, 2)
            for project, x in ((attention.query, asked_BKD), (attention.key, hidden_BLD), (attention.value, hidden_BLD))
        )
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
        dropout = attention.dropout.p if self.training else 0.0
        mixed_BKHd, _ = kernel(attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling)
        return mixed_BKHd.flatten(2)


class BertLayerAtPlaces(AtPlaces, BertLayer):
    """BERT's."""


class ElectraLayerAtPlaces(AtPlaces, ElectraLayer):
    """ELECTRA's."""


class ModernBertLayerAtPlaces(ModernBertEncoderLayer):
    """ModernBERT's: norms come first, and queries are rotated by their own positions."""

    def forward(
        self, hidden_BLD: Tensor, attention_mask: Tensor | None = None, position_embeddings=None, place_BK=None, **settings
    ) -> Tensor:
        if place_BK is None:
            return super().forward(hidden_BLD, attention_mask, position_embeddings, **settings)
        mixed_BKD = self._attend(self.attn_norm(hidden_BLD), position_embeddings, attention_mask, place_BK)
        hidden_BKD = take(hidden_BLD, place_BK) + self.attn.out_drop(self.attn.Wo(mixed_BKD))
        return hidden_BKD + self.mlp(self.mlp_norm(hidden_BKD))

    def _attend(self, normed_BLD: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, place_BK: Tensor) -> Tensor:
        attention, weight, bias = self.attn, self.attn.Wqkv.weight, self.attn.Wqkv.bias
        width = normed_BLD.shape[-1]
        query_BKD = F.linear(take(normed_BLD, place_BK), weight[:width], None if bias is None else bias[:width])
        both = F.linear(normed_BLD, weight[width:], None if bias is None else bias[width:]).chunk(2, dim=-1)
        query, key, value = (x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for x in (query_BKD, *both))
        cos_BLd, sin_BLd = (table.expand(len(place_BK), -1, -1) for table in rotation)
        query = rotated(query, take(cos_BLd, place_BK), take(sin_BLd, place_BK))
        key = rotated(key, cos_BLd, sin_BLd)
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
        dropout, scale = attention.attention_dropout if self.training else 0.0, attention.head_dim**-0.5
        mixed_BKHd, _ = kernel(attention, query, key, value, rows_of(mask, place_BK), dropout=dropout, scaling=scale)
        return mixed_BKHd.flatten(2)


class Gpt2BlockAtPlaces(GPT2Block):
    """GPT-2's: norms come first, and a place sees those up to itself. K <= L; what follows the K places is of no meaning."""

    def forward(
        self, hidden_BLD: Tensor, cache: None = None, attention_mask: Tensor | None = None, *rest, place_BK=None, **settings
    ) -> Tensor:
        if place_BK is None:
            return super().forward(hidden_BLD, cache, attention_mask, *rest, **settings)
        mixed_BKD = self._attend(self.ln_1(hidden_BLD), attention_mask, place_BK)
        asked_BKD = take(hidden_BLD, place_BK) + self.attn.resid_dropout(self.attn.c_proj(mixed_BKD))
        asked_BKD = asked_BKD + self.mlp(self.ln_2(asked_BKD))
        # GPT2Model wants L places back
        return F.pad(asked_BKD, (0, 0, 0, hidden_BLD.shape[1] - place_BK.shape[1]))

    def _attend(self, normed_BLD: Tensor, mask: Tensor | None, place_BK: Tensor) -> Tensor:
        attention, width = self.attn, normed_BLD.shape[-1]
        weight, bias = attention.c_attn.weight.T, attention.c_attn.bias
        query_BKD = F.linear(take(normed_BLD, place_BK), weight[:width], bias[:width])
        both = F.linear(normed_BLD, weight[width:], bias[width:]).chunk(2, dim=-1)
        query, key, value = (x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for x in (query_BKD, *both))
        earlier_BKL = place_BK[..., None] >= torch.arange(normed_BLD.shape[1], device=place_BK.device)
        mask = earlier_BKL.unsqueeze(1) if mask is None else rows_of(mask, place_BK)
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, gpt2_eager_attention)
        dropout = attention.attn_dropout.p if self.training else 0.0
        mixed_BKHd, _ = kernel(attention, query, key, value, mask, dropout=dropout, scaling=attention.scaling)
        return mixed_BKHd.flatten(2)


LAYERS = {  # by transformers' model type: where a network keeps its layers, and what the last one becomes
    "bert": ("encoder.layer", BertLayerAtPlaces),
    "electra": ("encoder.layer", ElectraLayerAtPlaces),
    "gpt2": ("h", Gpt2BlockAtPlaces),
    "modernbert": ("layers", ModernBertLayerAtPlaces),
}


def rotated(x_BHLd: Tensor, cos_BLd: Tensor, sin_BLd: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, equation 34)."""
    x = x_BHLd.float()
    return (x * cos_BLd.unsqueeze(1) + rotate_half(x) * sin_BLd.unsqueeze(1)).to(x_BHLd.dtype)


def rows_of(mask: Tensor | BlockMask | None, place_BK: Tensor) -> Tensor | BlockMask | None:
    """An attention mask (B, 1, 1 or L, L) with only the rows of the queries: (B, 1, 1 or K, L)."""
    if isinstance(mask, BlockMask):
        sees, (batch, num_places), length = mask.mask_mod, place_BK.shape, mask.shape[-1]
        rows = lambda b, h, k, j: sees(b, h, place_BK[b, k], j)  # noqa: E731 (a mask is given as a function)
        return create_block_mask(rows, batch, None, num_places, length, device=place_BK.device)
    if mask is None or mask.shape[-2] == 1:
        return mask
    index = place_BK[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[-1])
    return mask.expand(len(place_BK), -1, -1, -1).gather(2, index)
