"""The patch embedding of timm's vision transformers, computed only for the patches that are kept.

Masked autoencoders see a quarter of the patches; the others need neither be cut out of the picture nor embedded.

Shapes: B pictures, C channels, N = h x w patches of p pixels a side, K kept, P prefix tokens, D width, X = C p² values a patch.
"""

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models import VisionTransformer
from torch import Tensor


def can_embed_some(net: VisionTransformer) -> bool:
    """Whether its patches are embedded one by one, and their positions only added."""
    return type(net.patch_embed) is PatchEmbed and isinstance(net, VisionTransformer) and net.pos_drop.p == 0


def embed_some(net: VisionTransformer, images: Tensor, keep_BK: Tensor) -> tuple[Tensor, Tensor]:
    """(prefix (B, P, D), patches (B, K, D)) with their positions: what the blocks of a network read.

    Args:
        images: (B, C, H, W), normalised.
        keep_BK: places of patches, row by row.
    """
    embed, num_prefix = net.patch_embed, net.num_prefix_tokens
    patch, width = embed.patch_size[0], embed.proj.weight.shape[0]
    values_BKX = patches_at(images, keep_BK, patch)
    tokens_BKD = embed.norm(F.linear(values_BKX, embed.proj.weight.flatten(1), embed.proj.bias))
    grid = [side // patch for side in images.shape[2:]]
    nothing = images.new_zeros(1, *(grid if net.dynamic_img_size else [grid[0] * grid[1]]), width)
    places_LD = net._pos_embed(nothing)[0]  # the prefix, and the positions of all patches
    prefix_BPD = places_LD[:num_prefix].expand(len(images), -1, -1)
    return prefix_BPD, tokens_BKD + F.embedding(keep_BK, places_LD[num_prefix:])


def patches_at(images: Tensor, keep_BK: Tensor, patch: int) -> Tensor:
    """(B, K, X): the values of some patches, in the order of a convolution's weights."""
    rows = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # (B, C, h, p, w, p)
    patches_BhwCpp = rows.permute(0, 2, 4, 1, 3, 5)
    picture = torch.arange(len(images), device=images.device)[:, None]
    num_columns = patches_BhwCpp.shape[2]
    return patches_BhwCpp[picture, keep_BK // num_columns, keep_BK % num_columns].flatten(2)
