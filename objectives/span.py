"""SpanBERT (Joshi et al. 2020, "SpanBERT: Improving Pre-training by Representing and Predicting Spans", section 3).

Noise:  spans of whole words, geometric in length (p = 0.2, at most 10 words), until 15 % of the tokens are covered.
Input:  one draw for each span: 80 % all [MASK], 10 % all other tokens, 10 % left as they are.
        (Another token is any with equal probability; the original draws it by its frequency in the corpus.)
Target: the original tokens, predicted twice: from the token's own place, and from the two tokens around its span and its
        place in it (the span-boundary objective).

Shapes: B rows, L tokens a row, K places for noisy tokens a row, D width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datamodules.spec import DataSpec
from models.text_encoder import TextEncoder
from objectives.draw import Draw
from objectives.mlm import fixed_mask, guesses
from objectives.objective import Batch, Likelihood, Objective, Outcome
from objectives.targets import mean_over_targets, share
from objectives.text_tables import TextTables
from objectives.token_head import TokenHead
from objectives.token_noise import Noise, choose_spans, hide, noise_count
from ranges import Count, OpenShare, ShareAbove0

POSITION_WIDTH = 200  # the authors' code
MOST_TARGETS = 15  # tokens of a span that the boundary predicts; the authors' code


class SpanBERT(Objective):
    """Masked spans.

    Args:
        encoder: bidirectional.
        spec: the opened data.
        mask_ratio: share of the ordinary tokens that is noise.
        p: of the geometric distribution of span lengths in words.
        longest: a span in words.
        boundary: whether the span-boundary objective is added.
    """

    modality = "text"
    needs = ("ids",)
    attention = "bidirectional"

    def __init__(
        self,
        encoder: TextEncoder,
        spec: DataSpec,
        mask_ratio: OpenShare = 0.15,
        p: ShareAbove0 = 0.2,
        longest: Count = 10,
        boundary: bool = True,
    ):
        super().__init__(encoder)
        self.mask_ratio, self.p, self.longest = mask_ratio, p, longest
        self.tables = TextTables(spec)
        self.tables.need_mask("span")
        self.head = TokenHead(encoder.width, encoder.embedding_VD, encoder.tied_scale)
        self.boundary = BoundaryHead(encoder.width, encoder.embedding_VD, encoder.tied_scale) if boundary else None

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        ids_BL = batch["ids"]
        noise = self.choose(ids_BL, draw)
        seen_BL = hide(draw, ids_BL, noise, self.tables.mask, self.tables.ordinary_ids)
        around = boundaries(noise, ids_BL.shape[1])
        place = [noise.place_BK] if self.boundary is None else [noise.place_BK, around.left_BK, around.right_BK]
        hidden = self.encoder.at(self.encoder.inputs({**batch, "ids": seen_BL}), torch.cat(place, dim=1))
        hidden_BKD, *around_BKD = hidden.chunk(len(place), dim=1)
        nats, correct, num_targets = self.predict(batch, hidden_BKD, noise)
        loss = mean_over_targets(nats, num_targets)
        report = {"accuracy": share(correct, num_targets)}
        if self.boundary is not None:
            target_BK = ids_BL.gather(1, noise.place_BK).masked_fill(~around.used_BK, -100)
            nats, correct = self.boundary(*around_BKD, around.inside_BK, self.encoder.embedding_VD, target_BK)
            num_targets = around.used_BK.sum()
            boundary_loss = mean_over_targets(nats, num_targets)
            report |= {
                "masked_loss": loss.detach(),
                "boundary_loss": boundary_loss.detach(),
                "boundary_accuracy": share(correct, num_targets),
            }
            loss = loss + boundary_loss
        return Outcome(loss, report)

    def choose(self, ids_BL: Tensor, draw: Draw) -> Noise:
        """The noisy places; `group_BK` numbers the spans."""
        candidate_BL = self.tables.ordinary(ids_BL)
        count_B = noise_count(self.mask_ratio, candidate_BL, math.ceil)
        num_places = max(1, math.ceil(self.mask_ratio * ids_BL.shape[1]))
        begins_BL = self.tables.begins_word_V[ids_BL]
        return choose_spans(draw, candidate_BL, begins_BL, count_B, num_places, self.p, self.longest)

    def predict(self, batch: Batch, hidden_BKD: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of nats, number right, number of targets) from the noisy places themselves."""
        target_BK = batch["ids"].gather(1, noise.place_BK).masked_fill(~noise.used_BK, -100)
        nats, correct = self.head(hidden_BKD.flatten(0, 1), self.encoder.embedding_VD, target_BK.flatten())
        return nats, correct, noise.used_BK.sum()

    def likelihood(self, batch: Batch) -> Likelihood:
        """Pseudo-perplexity at one fixed mask of 15 % single tokens, as for the other masked objectives."""
        noise, seen_BL = fixed_mask(self.tables, batch)
        hidden_BKD = self.encoder.at(self.encoder.inputs({**batch, "ids": seen_BL}), noise.place_BK)
        nats, _, num_targets = self.predict(batch, hidden_BKD, noise)
        return Likelihood("pseudo_perplexity", nats, num_targets)

    @torch.no_grad()
    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """Some rows with masked spans, and the guesses."""
        noise = self.choose(batch["ids"], draw)
        seen_BL = hide(draw, batch["ids"], noise, self.tables.mask, self.tables.ordinary_ids, masked=1.0, random=0.0)
        hidden_BKD = self.encoder.at(self.encoder.inputs({**batch, "ids": seen_BL}), noise.place_BK)
        logits_BKV = self.head.logits(hidden_BKD, self.encoder.embedding_VD)
        return {"masked_spans": guesses(self.tables, batch["ids"], seen_BL, noise, logits_BKV.argmax(-1))}


class BoundaryHead(nn.Module):
    """The span-boundary objective: (h before the span, h after it, place in the span) -> two layers -> token."""

    def __init__(self, width: int, embedding_VD: Tensor, scale: float):
        super().__init__()
        inner = embedding_VD.shape[1]
        self.position = nn.Embedding(MOST_TARGETS, POSITION_WIDTH)
        self.position.of_tokens = False
        self.layers = nn.Sequential(
            nn.Linear(2 * width + POSITION_WIDTH, inner),
            nn.GELU(),
            nn.LayerNorm(inner, eps=1e-12),
        )
        self.head = TokenHead(inner, embedding_VD, scale)  # the second layer, and the tied decoder with its own bias
        for weight in (self.position.weight, self.layers[0].weight):
            nn.init.normal_(weight, std=0.02)
        nn.init.zeros_(self.layers[0].bias)

    def forward(
        self, left_BKD: Tensor, right_BKD: Tensor, inside_BK: Tensor, embedding_VE: Tensor, target_BK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(sum of nats, number right)."""
        hidden_BKX = torch.cat([left_BKD, right_BKD, self.position(inside_BK).to(left_BKD.dtype)], dim=-1)
        return self.head(self.layers(hidden_BKX.flatten(0, 1)), embedding_VE, target_BK.flatten())


@dataclass(frozen=True)
class Boundaries:
    """Around each noisy place, all (B, K).

    Attributes:
        left_BK, right_BK: the last clean position before it and the first after it.
        inside_BK: its place in between.
        used_BK: whether it is a target.
    """

    left_BK: Tensor
    right_BK: Tensor
    inside_BK: Tensor
    used_BK: Tensor


def boundaries(noise: Noise, length: int) -> Boundaries:
    """Spans that touch count as one, since the tokens around must be clean.

    There is no target beyond the 15th token of a span, nor in a span at the edge of the block.
    """
    noisy_BL = torch.zeros(len(noise.place_BK), length, dtype=torch.bool, device=noise.place_BK.device)
    noisy_BL.scatter_(1, noise.place_BK, noise.used_BK)
    position_L = torch.arange(length, device=noisy_BL.device)
    before_BL = torch.where(noisy_BL, -1, position_L).cummax(1).values
    after_BL = torch.where(noisy_BL, length, position_L).flip(1).cummin(1).values.flip(1)
    left_BK, right_BK = before_BL.gather(1, noise.place_BK), after_BL.gather(1, noise.place_BK)
    inside_BK = noise.place_BK - left_BK - 1
    used_BK = noise.used_BK & (left_BK >= 0) & (right_BK < length) & (inside_BK < MOST_TARGETS)
    return Boundaries(left_BK.clamp(min=0), right_BK.clamp(max=length - 1), inside_BK.clamp(0, MOST_TARGETS - 1), used_BK)
