"""Supervised learning on text: the reference for the language objectives, and what full fine-tuning trains.

Input:  a sentence, or a pair of them.
Target: its label by cross-entropy with label smoothing, or its score by squared error where a task has no classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.spec import DataSpec
from models.encoder import Encoder
from objectives.draw import Draw
from objectives.objective import Batch, Objective, Outcome
from ranges import Share, ShareBelow1


class SupervisedText(Objective):
    """One linear layer on the pooled encoder.

    Args:
        encoder: any text encoder.
        spec: the opened task.
        label_smoothing: share of the target spread over all classes.
        dropout: before the layer.
    """

    modality = "text"
    needs = ("ids", "label")

    def __init__(self, encoder: Encoder, spec: DataSpec, label_smoothing: Share = 0.0, dropout: ShareBelow1 = 0.0):
        super().__init__(encoder)
        self.label_smoothing, self.num_classes = label_smoothing, spec.num_classes
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.width, max(1, spec.num_classes))
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        scores, label = self.classify(batch).float(), batch["label"]
        if self.num_classes == 0:
            return Outcome(F.mse_loss(scores[:, 0], label.float()))
        loss = F.cross_entropy(scores, label, label_smoothing=self.label_smoothing)
        return Outcome(loss, {"accuracy": (scores.detach().argmax(1) == label).float().mean()})

    def classify(self, batch: Batch) -> Tensor:
        """(B, classes) scores, or (B, 1) where there are none."""
        return self.head(self.dropout(self.encoder.embed(self.encoder.inputs(batch))))
