"""Prefix language modelling (Raffel et al. 2020, section 3.2.1): a prefix is seen whole, the rest is generated.

Noise:  none; each row is split at a uniformly random place of its own tokens.
Input:  tokens before the split see each other in both directions, those behind it see everything before them.
Target: every token from the split on.

Shapes: B rows, L tokens a row, D width.
"""

import torch
from torch import Tensor

from datamodules.spec import DataSpec
from models.text_encoder import TextEncoder, TextInputs
from objectives.draw import Draw
from objectives.linear_cross_entropy import linear_cross_entropy
from objectives.objective import Batch, Likelihood, Objective, Outcome
from objectives.targets import mean_over_targets, share
from objectives.text_samples import continue_text
from objectives.text_tables import TextTables


class PrefixLanguageModel(Objective):
    """Prefix LM on a causal architecture, whose attention is opened within the prefix.

    Args:
        encoder: with causal attention.
        spec: the opened data.
    """

    modality = "text"
    needs = ("ids",)
    attention = "causal"

    def __init__(self, encoder: TextEncoder, spec: DataSpec):
        super().__init__(encoder)
        self.tables = TextTables(spec)

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        nats, correct, num_targets = self.predict(batch, splits(batch, draw))
        return Outcome(mean_over_targets(nats, num_targets), {"accuracy": share(correct, num_targets)})

    def predict(self, batch: Batch, split_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(sum of nats, number right, number of targets) of the tokens from the split on."""
        inputs = self.encoder.inputs(batch)
        attend_BLL = prefix_attention(split_B, batch["ids"].shape[1])
        if inputs.attend is not None:  # documents kept apart: the prefix opens only its own document
            attend_BLL = attend_BLL & (batch["document"][:, :, None] == batch["document"][:, None, :])
        target_BL = batch["ids"][:, 1:]
        position_L = torch.arange(1, batch["ids"].shape[1], device=target_BL.device)
        wanted_BL = position_L >= split_B[:, None]
        if "document" in batch:
            wanted_BL = wanted_BL & (batch["document"][:, 1:] == batch["document"][:, :-1])
        if inputs.present is not None:
            attend_BLL = attend_BLL & inputs.present[:, None, :]
            wanted_BL = wanted_BL & inputs.present[:, 1:]
        hidden_BLD = self.encoder(TextInputs(inputs.ids, inputs.present, attend_BLL, inputs.positions)).tokens[:, :-1]
        # half of the positions have no target: leaving them out is worth more than static shapes
        nats, correct = linear_cross_entropy(hidden_BLD[wanted_BL], self.encoder.embedding_VD, None, target_BL[wanted_BL])
        return nats, correct, wanted_BL.sum()

    def likelihood(self, batch: Batch) -> Likelihood:
        """With a prefix of one token, that is, as a causal language model."""
        nats, _, num_targets = self.predict(batch, torch.ones_like(batch["index"]))
        return Likelihood("bits_per_byte", nats, num_targets)

    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """How the model goes on where a row was cut after its first quarter."""
        return {"continuation": continue_text(self.encoder, self.tables, batch, draw)}


def splits(batch: Batch, draw: Draw) -> Tensor:
    """(B,) where each row is split, from 1 to its length less one, padding not counted; a row of one token has no target."""
    ids_BL = batch["ids"]
    length_B1 = batch.get("present", torch.ones_like(ids_BL)).sum(1, keepdim=True)
    return 1 + draw.integers("split", (length_B1 - 1).clamp(min=1), 1)[:, 0]


def prefix_attention(split_B: Tensor, length: int) -> Tensor:
    """(B, L, L) bool: everything before, and all of the prefix."""
    position_L = torch.arange(length, device=split_B.device)
    causal_LL = position_L[None, :] <= position_L[:, None]
    return causal_LL | (position_L[None, None, :] < split_B[:, None, None])
