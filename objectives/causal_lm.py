"""Causal language modelling (Radford et al. 2018, section 3.1): every token from those before it.

Noise:  none; what comes later is hidden by causal attention.
Target: the next token, at every position.

Shapes: B rows, L tokens a row, D width.
"""

import torch

from datamodules.spec import DataSpec
from models.text_encoder import TextEncoder
from objectives.draw import Draw
from objectives.linear_cross_entropy import linear_cross_entropy
from objectives.objective import Batch, Likelihood, Objective, Outcome
from objectives.targets import mean_over_targets, share
from objectives.text_samples import continue_text
from objectives.text_tables import TextTables


class CausalLanguageModel(Objective):
    """Next-token prediction; the output layer is the token embedding.

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
        nats, correct, num_targets = self.predict(batch)
        return Outcome(mean_over_targets(nats, num_targets), {"accuracy": share(correct, num_targets)})

    def predict(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(sum of nats, number right, number of targets)."""
        target_BL = batch["ids"][:, 1:]
        if "present" in batch:  # padding by length, never by id: the end token may serve as padding
            target_BL = target_BL.masked_fill(~batch["present"][:, 1:], -100)
        if "document" in batch:  # the first token of a document cannot be known from the one before it
            target_BL = target_BL.masked_fill(batch["document"][:, 1:] != batch["document"][:, :-1], -100)
        hidden_BLD = self.encoder(self.encoder.inputs(batch)).tokens[:, :-1]
        nats, correct = linear_cross_entropy(hidden_BLD.flatten(0, 1), self.encoder.embedding_VD, None, target_BL.flatten())
        return nats, correct, (target_BL >= 0).sum()

    def likelihood(self, batch: Batch) -> Likelihood:
        nats, _, num_targets = self.predict(batch)
        return Likelihood("bits_per_byte", nats, num_targets)

    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """How the model goes on where a row was cut after its first quarter."""
        return {"continuation": continue_text(self.encoder, self.tables, batch, draw)}
