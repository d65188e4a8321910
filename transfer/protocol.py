"""The contract of a transfer protocol: an encoder and labelled data in, metrics out, the test split read once."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from conf import choices_of, modality
from datamodules.contract import Data, Task
from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import POOLED, Encoder
from models.pair import Pair
from transfer.features import extract
from transfer.kept import Kept

LABELLED = {
    "text": "datamodule=text_classification, glue or kjv",
    "image": "class folders, or a labelled collection",
    "image_text": "class folders, a labelled collection, or transfer=retrieval",
}


@dataclass(frozen=True)
class Bench:
    """Where and how a protocol runs; none of it changes what is measured.

    Attributes:
        folder: for logs and checkpoints.
        seed: of everything random.
        trainer: the config node `trainer`, with the number of workers resolved.
        precision: "fp32", "bf16" or "fp16", resolved.
        kept: what earlier transfers of the same process have read; None reads everything anew.
    """

    folder: Path
    seed: int
    trainer: dict[str, Any]
    precision: str
    kept: Kept | None = None

    def read(
        self, encoder: Encoder, data: Task, split: str, names: Iterable[str] = (POOLED,)
    ) -> tuple[dict[str, Tensor], Tensor]:
        """(readout -> frozen features (n, D) float32, labels (n,)) of a split, on the CPU; not to be written into."""
        anew = partial(extract, encoder, data, split, names, workers=self.trainer["workers"], precision=self.precision)
        return anew() if self.kept is None else self.kept.read(encoder, split, names, anew)


class TransferProtocol(Protocol):
    """What `conf/transfer/*.yaml` builds.

    A protocol may further say, as attributes of its class:
        takes: "pair" where it compares pictures with texts, instead of "encoder".
        judges: "captions" where it needs no classes, instead of "labels".
        metric: what it reports first, instead of the task's `spec.selection`.
        learns_from: the splits whose labels it learns from, where those are not "train" and "val".
        reads: True where it asks for frozen features by `bench.read`, which earlier transfers may have read.
    """

    def __call__(self, model: Encoder | Pair, data: Task, bench: Bench) -> dict[str, float | str]:
        """Metrics by name, on the test split; choices are made on the validation split, by the metric `spec.selection`."""


def takes_pair(protocol: TransferProtocol) -> bool:
    """Whether a protocol (or its class) is for two towers, which learns from no labels of the task."""
    return getattr(protocol, "takes", "encoder") == "pair"


def labels_learned_from(protocol: TransferProtocol, data: Task) -> int:
    """How many labels a protocol (or its class) learns from; those that it only looks at to report a score are none."""
    if takes_pair(protocol):
        return 0
    parts = [data.splits[name] for name in getattr(protocol, "learns_from", ("train", "val"))]
    return sum(part.num for part in parts if part.labels is not None)


def judged_part(protocol: TransferProtocol, data: Data, label_fraction: float, seed: int) -> Data:
    """What of the opened data a protocol judges on: the labelled task, with a share of its labels, or all with captions.

    Raises:
        BadInput: there are no labels or captions, or a share of labels where none are learned from.
    """
    if takes_pair(protocol) and label_fraction != 1:
        raise BadInput(f"label_fraction={label_fraction}: this transfer learns from no labels")
    if getattr(protocol, "judges", "labels") == "captions":
        if data.modality != "image_text":
            raise BadInput(f"data set '{data.spec.name}' has no captions; datamodules that fit: {_fitting('image_text')}")
        return data
    if data.task is None:
        raise BadInput(f"data set '{data.spec.name}' has no labels; transfer needs a labelled one: {LABELLED[data.modality]}")
    check_task(data.task)
    return data.task.with_label_fraction(label_fraction, seed)


def _fitting(wanted: str) -> str:
    return ", ".join(choice for choice in choices_of("datamodule") if modality("datamodule", choice) == wanted)


def check_task(data: Task) -> None:
    """A task needs labels of at least two classes in its training split.

    Raises:
        BadInput: it has not.
    """
    labels = data.splits["train"].labels
    if labels is None:
        raise BadInput(f"data set '{data.spec.name}' has no labels; transfer needs class folders or a labelled set")
    if data.spec.num_classes == 0:
        return  # scores instead of classes
    present = np.unique(labels)
    if len(present) < 2:
        raise BadInput(
            f"data set '{data.spec.name}' has one class only ({data.spec.class_names[present[0]]}); transfer needs two"
        )


def scores(predicted: np.ndarray, labels: np.ndarray, spec: DataSpec, prefix: str = "") -> dict[str, float]:
    """Accuracy and macro-averaged F1, over the classes that occur in either argument, and what else the task is judged by.

    Where a task has no classes: the correlations of Spearman and Pearson, which are 0 where all predictions are the same.
    """
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef  # most of a second: not before the first step

    if spec.num_classes == 0:
        varied = len(np.unique(predicted)) > 1 and len(np.unique(labels)) > 1  # else scipy has no number
        measures = {"spearman": spearmanr, "pearson": pearsonr}
        found = {name: measure(labels, predicted).statistic if varied else 0.0 for name, measure in measures.items()}
    else:
        found = {
            "accuracy": accuracy_score(labels, predicted),
            "macro_f1": f1_score(labels, predicted, average="macro", zero_division=0),
        }
        if spec.selection == "matthews":
            found["matthews"] = matthews_corrcoef(labels, predicted)
    return {f"{prefix}{name}": float(value) for name, value in found.items()}
