"""Permutation language modelling, XLNet (Yang et al. 2019, sections 2.2 and 2.3).

Order:  of the ordinary tokens of each row, drawn anew in every epoch; all special tokens come before them.
Input:  the true tokens (content), and at each target place [MASK], a learned vector that knows its place only (query).
        Content sees the content that does not come later in the order, a query the content that comes earlier.
Target: the last 1/k of the order (partial prediction), each at its query.

Both streams go through the encoder as one sequence of the row and its queries, with a mask that says who sees whom: weights
are shared and nothing in the blocks is changed, so this is the two-stream attention of equations 3 and 4. Like the authors'
code, and unlike the order within the row would have it, tokens that are no targets all see each other. Targets are single
tokens, not the authors' spans; memory of earlier blocks and relative positions belong to their network, not the objective.

Shapes: B rows, L tokens a row, K targets a row, D width.
"""

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from datamodules.spec import DataSpec
from errors import BadInput
from models.text_encoder import TextEncoder, TextInputs
from objectives.draw import Draw
from objectives.mlm import fixed_mask, guesses
from objectives.objective import Batch, Likelihood, Objective, Outcome
from objectives.targets import mean_over_targets, share
from objectives.text_tables import TextTables
from objectives.token_head import TokenHead
from objectives.token_noise import Noise, choose_tokens, noise_count

ARCHITECTURES = ("bert", "electra", "modernbert")  # that take a mask and positions as they are given


class PermutationLanguageModel(Objective):
    """XLNet's objective, with the output layers of the other masked objectives.

    Args:
        encoder: bidirectional, with positions that can be given.
        spec: the opened data.
        k: one token in k is predicted.
    """

    modality = "text"
    needs = ("ids",)
    attention = "bidirectional"

    def __init__(self, encoder: TextEncoder, spec: DataSpec, k: Annotated[float, Ge(1)] = 6):
        super().__init__(encoder)
        if k < 1:
            raise BadInput(f"objective.k must be at least 1 (then every token is predicted), not {k}")
        if encoder.net.config.model_type not in ARCHITECTURES:
            raise BadInput(
                f"objective=permutation_lm puts two tokens at one position, which {encoder.net.config.model_type} cannot; "
                "fits: bert_tiny, bert_mini, bert_small, bert_base, bert_large, modernbert_base"
            )
        self.k = k
        self.tables = TextTables(spec)
        self.tables.need_mask("permutation_lm")
        self.head = TokenHead(encoder.width, encoder.embedding_VD, encoder.tied_scale)

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        targets = self.choose(batch["ids"], draw)
        rank_K = torch.arange(targets.place_BK.shape[1], device=targets.place_BK.device)
        nats, correct, num_targets = self.predict(batch, targets, rank_K)
        return Outcome(mean_over_targets(nats, num_targets), {"accuracy": share(correct, num_targets)})

    def choose(self, ids_BL: Tensor, draw: Draw) -> Noise:
        """The end of the order: places that are chosen by random keys come sorted by them."""
        candidate_BL = self.tables.ordinary(ids_BL)
        count_B = noise_count(1 / self.k, candidate_BL)
        return choose_tokens(draw, candidate_BL, count_B, max(1, round(ids_BL.shape[1] / self.k)))

    def queries(self, batch: Batch, targets: Noise, rank_K: Tensor) -> Tensor:
        """(B, K, D): what is known at each target of what comes before it."""
        inputs, place_BK = self.encoder.inputs(batch), targets.place_BK
        ids_BL, (_, length) = inputs.ids, inputs.ids.shape
        query_BK = torch.full_like(place_BK, self.tables.mask)
        positions_BL = torch.arange(length, device=ids_BL.device).expand_as(ids_BL)
        if inputs.positions is not None:
            positions_BL = inputs.positions
        order_BL = torch.zeros_like(ids_BL).scatter(1, place_BK, (rank_K.to(ids_BL.device) + 1) * targets.used_BK)
        visible_BLL = torch.ones_like(ids_BL, dtype=torch.bool)[:, None] if inputs.present is None else inputs.present[:, None]
        visible_BLL = visible_BLL.expand(-1, length, -1)
        if inputs.attend is not None:  # documents kept apart
            visible_BLL = visible_BLL & inputs.attend
        doubled = TextInputs(
            torch.cat([ids_BL, query_BK], dim=1),
            attend=two_streams(order_BL, place_BK, visible_BLL),
            positions=torch.cat([positions_BL, positions_BL.gather(1, place_BK)], dim=1),
            segment=None if inputs.segment is None else torch.cat([inputs.segment, inputs.segment.gather(1, place_BK)], dim=1),
        )
        return self.encoder(doubled).tokens[:, length:]

    def predict(self, batch: Batch, targets: Noise, rank_K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of nats, number right, number of targets); `rank_K` says in which order the targets come."""
        hidden_BKD = self.queries(batch, targets, rank_K)
        target_BK = batch["ids"].gather(1, targets.place_BK).masked_fill(~targets.used_BK, -100)
        nats, correct = self.head(hidden_BKD.flatten(0, 1), self.encoder.embedding_VD, target_BK.flatten())
        return nats, correct, targets.used_BK.sum()

    def likelihood(self, batch: Batch) -> Likelihood:
        """Pseudo-perplexity at one fixed mask of 15 %: targets that see no other target, as in the other masked objectives."""
        targets, _ = fixed_mask(self.tables, batch)
        nats, _, num_targets = self.predict(batch, targets, torch.zeros(targets.place_BK.shape[1], dtype=torch.long))
        return Likelihood("pseudo_perplexity", nats, num_targets)

    @torch.no_grad()
    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """Some rows with the targets of the fixed mask hidden, and the guesses when none sees another."""
        targets, seen_BL = fixed_mask(self.tables, batch)
        hidden_BKD = self.queries(batch, targets, torch.zeros(targets.place_BK.shape[1], dtype=torch.long))
        guess_BK = self.head.logits(hidden_BKD, self.encoder.embedding_VD).argmax(-1)
        return {"hidden_text": guesses(self.tables, batch["ids"], seen_BL, targets, guess_BK)}


def two_streams(order_BL: Tensor, place_BK: Tensor, visible_BLL: Tensor) -> Tensor:
    """(B, L + K, L + K) bool: who sees whom of the content followed by the queries.

    Args:
        order_BL: 0 for what is no target, else the target's rank from 1 on.
        place_BK: of the queries; one at a place of order 0 sees nothing.
        visible_BLL: what content could see if there were no order.
    """
    length, num_queries = order_BL.shape[1], place_BK.shape[1]
    content_BLL = visible_BLL & (order_BL[:, None, :] <= order_BL[:, :, None])
    own_BK1 = order_BL.gather(1, place_BK).unsqueeze(-1)
    visible_BKL = visible_BLL.gather(1, place_BK.unsqueeze(-1).expand(-1, -1, length))
    query_BKL = visible_BKL & (order_BL[:, None, :] < own_BK1)
    # the first of an order may have nothing to see, but a softmax needs something: then it sees its own query
    alone_BK1 = ~query_BKL.any(-1, keepdim=True)
    itself_BKK = alone_BK1 & torch.eye(num_queries, dtype=torch.bool, device=order_BL.device)
    never_BLK = torch.zeros_like(content_BLL[:, :, :1]).expand(-1, -1, num_queries)
    return torch.cat([torch.cat([content_BLL, never_BLK], dim=2), torch.cat([query_BKL, itself_BKK], dim=2)], dim=1)
