"""A codebook: every token becomes the nearest of a fixed number of vectors, so a picture becomes a grid of whole numbers.

van den Oord et al. 2017 ("VQ-VAE"), section 3 and appendix A.1: gradients pass straight through, and entries are moving
averages of the tokens that chose them. Tokens and entries have unit length (Yu et al. 2022, "ViT-VQGAN", section 3.2), and
entries that nobody chooses begin again at tokens of the batch (Dhariwal et al. 2020, "Jukebox", section 3.1).

Shapes: B pictures, N tokens of each, D encoder width, K entries, Z their width, W channels of the decoder's first grid.
"""

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from errors import BadInput
from models.encoder import Encoder, Features, take
from objectives.bottleneck import Bottleneck, Code
from objectives.collapse import entropy, feature_std
from objectives.draw import Draw
from objectives.gather import gather_rows
from objectives.targets import over_ranks
from ranges import Count, NotNegative, Share

UNUSED = 0.1  # an entry chosen less often than this share of the mean begins again


class Codebook(Bottleneck):
    """Quantised tokens.

    Args:
        encoder: whose tokens come; they form a square grid.
        channels, side: W, and the side that the decoder begins with; it enlarges the grid where that is smaller.
        num_codes: K.
        width: Z.
        commitment: weight of the squared distance between a token and its entry, in nats a token.
        momentum: share of itself that an entry keeps each step.
    """

    def __init__(
        self,
        encoder: Encoder,
        channels: int,
        side: int,
        num_codes: Annotated[int, Ge(2)] = 512,
        width: Count = 16,
        commitment: NotNegative = 10.0,
        momentum: Share = 0.95,
    ):
        super().__init__()
        if num_codes < 2:
            raise BadInput(f"objective.bottleneck.num_codes must be 2 or more, not {num_codes}")
        self.commitment, self.momentum = commitment, momentum
        self.read, self.spread = nn.Linear(encoder.width, width), nn.Linear(width, channels)
        self.register_buffer("codes_KZ", F.normalize(torch.randn(num_codes, width), dim=1))
        self.register_buffer("used_K", torch.zeros(num_codes))  # moving average of how many tokens chose each
        self.register_buffer("sum_KZ", torch.zeros(num_codes, width))  # and of their sum
        self.waiting: list[tuple[Tensor, ...]] = []

    def forward(self, features: Features, draw: Draw) -> Code:
        tokens_BNZ = self.tokens(features)
        ids_BN = self.nearest(tokens_BNZ)
        entries_BNZ = self.codes_KZ[ids_BN]
        if torch.is_grad_enabled():  # a step, or a part of one
            self._hold(tokens_BNZ.detach(), ids_BN, draw)
        distance_B = (tokens_BNZ - entries_BNZ).square().sum(dim=(1, 2))
        share_K = torch.bincount(ids_BN.flatten(), minlength=len(self.codes_KZ)) / ids_BN.numel()
        report = {
            "perplexity": entropy(share_K[None])[0].exp(),  # entries in use, as if all of them were used alike
            "distance": distance_B.detach().mean() / ids_BN.shape[1],
            "feature_std": feature_std(features.pooled),
        }
        return Code(self._grid(tokens_BNZ + (entries_BNZ - tokens_BNZ).detach()), self.commitment * distance_B, report)

    def tokens(self, features: Features) -> Tensor:
        """(B, N, Z) of unit length."""
        return F.normalize(self.read(features.tokens).float(), dim=-1)

    def nearest(self, tokens_BNZ: Tensor) -> Tensor:
        """(B, N) int64: which entry each token becomes; half precision would confuse entries that are close."""
        with torch.autocast(tokens_BNZ.device.type, enabled=False):
            return (tokens_BNZ @ self.codes_KZ.T).argmax(dim=-1)

    def ids(self, features: Features) -> Tensor:
        """(B, N) int64: the picture in whole numbers."""
        return self.nearest(self.tokens(features))

    def grid(self, ids_BN: Tensor) -> Tensor:
        """(B, W, S, S) for the decoder, S² = N."""
        return self._grid(self.codes_KZ[ids_BN])

    def _grid(self, entries_BNZ: Tensor) -> Tensor:
        side = math.isqrt(entries_BNZ.shape[1])
        return self.spread(entries_BNZ).mT.unflatten(2, (side, side))

    def _hold(self, tokens_BNZ: Tensor, ids_BN: Tensor, draw: Draw) -> None:
        """Keep what entries will move by: counts and sums over all ranks, and a random token of every picture."""
        count_K, sum_KZ = torch.zeros_like(self.used_K), torch.zeros_like(self.sum_KZ)
        count_K.index_add_(0, ids_BN.flatten(), torch.ones_like(tokens_BNZ[..., 0]).flatten())
        sum_KZ.index_add_(0, ids_BN.flatten(), tokens_BNZ.flatten(0, 1))
        one_BZ = take(tokens_BNZ, draw.integers("restart", tokens_BNZ.shape[1], 1)).squeeze(1)
        order_B = draw.bits("order of restarts", 1).squeeze(1)
        self.waiting.append((over_ranks(count_K), over_ranks(sum_KZ), gather_rows(one_BZ), gather_rows(order_B)))

    def after_step(self) -> None:
        if not self.waiting:
            return
        counts, sums, ones, orders = zip(*self.waiting, strict=True)
        self.waiting.clear()
        self.used_K.lerp_(sum(counts), 1 - self.momentum)
        self.sum_KZ.lerp_(sum(sums), 1 - self.momentum)
        one_BZ = torch.cat(ones)[torch.cat(orders).argsort()]  # an order that is the same on any number of ranks
        mean = self.used_K.mean()
        unused_K = self.used_K < UNUSED * mean
        place_K = unused_K.cumsum(dim=0) - 1  # among the unused ones
        again_K = unused_K & (place_K < len(one_BZ))
        self.used_K.copy_(torch.where(again_K, mean, self.used_K))
        restarted_KZ = mean * one_BZ[place_K.clamp(0, len(one_BZ) - 1)]
        self.sum_KZ.copy_(torch.where(again_K[:, None], restarted_KZ, self.sum_KZ))
        known_K1 = self.sum_KZ.norm(dim=1, keepdim=True) > 0
        self.codes_KZ.copy_(torch.where(known_K1, F.normalize(self.sum_KZ, dim=1), self.codes_KZ))
