"""Weighted k-nearest neighbours on frozen features (Wu et al. 2018, section 3.4; the constants of Caron et al. 2021).

Shapes: Q queries, N bank, D width, K neighbours, C classes.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.contract import Data, Task
from errors import BadInput
from models.encoder import POOLED, Encoder
from ranges import Count, Positive
from transfer.features import extract
from transfer.protocol import Bench, scores

CHUNK = 1024  # queries at a time


def knn_predict(
    query_QD: Tensor, bank_ND: Tensor, bank_labels_N: Tensor, num_classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Predicted classes (Q,): neighbours by cosine similarity vote with weight exp(similarity / temperature).

    With `num_classes` 0 the labels are scores, of which the prediction is the weighted mean.

    Raises:
        BadInput: the bank is smaller than k.
    """
    if k > len(bank_ND):
        raise BadInput(f"transfer.k={k} neighbours cannot be found among {len(bank_ND)} labelled samples")
    bank_ND = F.normalize(bank_ND, dim=1)
    predicted = []
    for chunk in F.normalize(query_QD, dim=1).split(CHUNK):
        similarity_QK, neighbour_QK = (chunk @ bank_ND.T).topk(k, dim=1)
        weight_QK = ((similarity_QK - 1) / temperature).exp()  # minus the largest possible: only ratios matter
        if num_classes == 0:
            predicted.append((weight_QK * bank_labels_N[neighbour_QK]).sum(1) / weight_QK.sum(1))
            continue
        votes_QC = weight_QK.new_zeros(len(chunk), num_classes)
        votes_QC.scatter_add_(1, bank_labels_N[neighbour_QK], weight_QK)
        predicted.append(votes_QC.argmax(1))
    return torch.cat(predicted)


@dataclass(frozen=True)
class KNN:
    """k-NN with nothing to choose, so the bank is training and validation split together.

    Attributes:
        k: neighbours.
        temperature: of the vote.
    """

    k: Count = 20
    temperature: Positive = 0.07
    reads: ClassVar[bool] = True

    def __call__(self, encoder: Encoder, data: Task, bench: Bench) -> dict[str, float | str]:
        (train, train_labels), (val, val_labels), (test, labels) = (
            bench.read(encoder, data, split) for split in ("train", "val", "test")
        )
        bank, bank_labels = torch.cat([train[POOLED], val[POOLED]]), torch.cat([train_labels, val_labels])
        predicted = knn_predict(test[POOLED], bank, bank_labels, data.spec.num_classes, self.k, self.temperature)
        return scores(predicted.numpy(), labels.numpy(), data.spec)


def validation_probe(encoder: Encoder, data: Data, bank: int, queries: int) -> tuple[Tensor, float | None]:
    """The quick look while training: some validation samples against some of the training split.

    Returns:
        (features of the queries (Q, D), their k-NN accuracy or None without labels).
    """
    captioned = (encoder.modality, data.modality) == ("text", "image_text")
    task = data.caption_task if captioned else data.task
    if task is None or task.spec.num_classes < 2:
        return extract(encoder, data, "val", limit=queries)[0][POOLED], None
    query, labels = extract(encoder, task, "val", limit=queries)
    known, known_labels = extract(encoder, task, "train", limit=bank)
    predicted = knn_predict(query[POOLED], known[POOLED], known_labels, task.spec.num_classes, min(20, len(known_labels)))
    return query[POOLED], float((predicted == labels).float().mean())
