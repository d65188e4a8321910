"""Bidirectional language modelling, ELMo (Peters et al. 2018, section 3.1).

Noise:  none; each of two networks reads from one side only.
Target: the next token from what precedes it, and the previous token from what follows it, at every position.

Both directions share the token embedding and the output layer, which is that embedding (ELMo has a softmax of its own).

Shapes: B rows, L tokens a row, H width of one direction.
"""

from torch import Tensor

from datamodules.spec import DataSpec
from models.bilstm import BiLSTM
from objectives.draw import Draw
from objectives.linear_cross_entropy import linear_cross_entropy
from objectives.objective import Batch, Likelihood, Objective, Outcome
from objectives.targets import mean_over_targets, share
from objectives.text_samples import continue_text
from objectives.text_tables import TextTables


class BidirectionalLanguageModel(Objective):
    """Two language models with one embedding.

    Args:
        encoder: with a network for each direction.
        spec: the opened data.
    """

    modality = "text"
    needs = ("ids",)
    attention = "directions"

    def __init__(self, encoder: BiLSTM, spec: DataSpec):
        super().__init__(encoder)
        self.tables = TextTables(spec)

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        ahead, behind = self.predict(batch)
        nats, num_targets = ahead[0] + behind[0], ahead[2] + behind[2]
        report = {"accuracy": share(ahead[1], ahead[2]), "backward_accuracy": share(behind[1], behind[2])}
        return Outcome(mean_over_targets(nats, num_targets), report)

    def predict(self, batch: Batch) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(sum of nats, number right, number of targets) of the next tokens, and of the previous ones."""
        ids_BL, embedding_VH = batch["ids"], self.encoder.embedding_VD
        ahead_BLH, behind_BLH = self.encoder(self.encoder.inputs(batch)).tokens.split(embedding_VH.shape[1], dim=-1)
        found = []
        for hidden_BLH, target_BL in ((ahead_BLH[:, :-1], ids_BL[:, 1:]), (behind_BLH[:, 1:], ids_BL[:, :-1])):
            if "present" in batch:  # neither is padding predicted, nor anything from it
                target_BL = target_BL.masked_fill(~batch["present"][:, 1:], -100)
            nats, correct = linear_cross_entropy(hidden_BLH.flatten(0, 1), embedding_VH, None, target_BL.flatten())
            found.append((nats, correct, (target_BL >= 0).sum()))
        return found

    def likelihood(self, batch: Batch) -> Likelihood:
        """Of the forward direction, which alone generates text as a causal language model does."""
        nats, _, num_targets = self.predict(batch)[0]
        return Likelihood("bits_per_byte", nats, num_targets)

    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """How the forward direction goes on where a row was cut after its first quarter."""
        return {"continuation": continue_text(self.encoder, self.tables, batch, draw)}
