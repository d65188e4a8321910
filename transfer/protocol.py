"""The contract of a transfer protocol: an encoder and labelled data in, metrics out, the test split read once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from datamodules.images import ImageData
from errors import BadInput
from models.encoder import Encoder


@dataclass(frozen=True)
class Bench:
    """Where and how a protocol runs; none of it changes what is measured.

    Attributes:
        folder: for logs and checkpoints.
        seed: of everything random.
        trainer: the config node `trainer`.
        precision: "fp32", "bf16" or "fp16", resolved.
    """

    folder: Path
    seed: int
    trainer: dict[str, Any]
    precision: str


class TransferProtocol(Protocol):
    """What `conf/transfer/*.yaml` builds."""

    def __call__(self, encoder: Encoder, data: ImageData, bench: Bench) -> dict[str, float]:
        """Metrics by name; "accuracy" and "macro_f1" are on the test split, choices are made on the validation split."""


def check_task(data: ImageData) -> None:
    """A task needs labels of at least two classes in its training split.

    Raises:
        BadInput: it has not.
    """
    labels = data.splits["train"].labels
    if labels is None:
        raise BadInput(f"data set '{data.spec.name}' has no labels; transfer needs class folders or a labelled set")
    present = np.unique(labels)
    if len(present) < 2:
        raise BadInput(
            f"data set '{data.spec.name}' has one class only ({data.spec.class_names[present[0]]}); transfer needs two"
        )


def scores(predicted: np.ndarray, labels: np.ndarray, prefix: str = "") -> dict[str, float]:
    """Accuracy and macro-averaged F1, over the classes that occur in either argument."""
    return {
        f"{prefix}accuracy": float(accuracy_score(labels, predicted)),
        f"{prefix}macro_f1": float(f1_score(labels, predicted, average="macro", zero_division=0)),
    }
