"""Shares of labelled samples: splits carved from training data, and fewer labels to learn from."""

import copy
from dataclasses import replace
from typing import Any, Protocol, Self

import numpy as np

from datamodules.spec import DataSpec
from errors import BadInput


class Part(Protocol):
    """One split: `num` samples, their labels (class numbers, float targets, or None), and any choice of them."""

    num: int
    labels: np.ndarray | None

    def subset(self, indices: np.ndarray) -> Self: ...


class Labelled:
    """What pictures and texts with labels have in common; `splits` and `spec` are their own."""

    splits: dict[str, Any]
    spec: DataSpec

    @property
    def task(self) -> Self:
        """The labelled task of these data: themselves."""
        return self

    def with_label_fraction(self, fraction: float, seed: int) -> Self:
        """The same data with a stratified share of the labels to train and to choose with; the test split stays whole.

        At least one sample of each class stays in each split.
        """
        if fraction == 1 or self.splits["train"].labels is None:
            return self
        parts = {name: self.splits[name] for name in ("train", "val")}
        parts = {name: part.subset(stratified(part.labels, fraction, seed)) for name, part in parts.items()}
        other = copy.copy(self)
        other.splits = self.splits | parts
        other.spec = replace(self.spec, num_train=parts["train"].num)
        return other


def complete(splits: dict[str, Part], fraction: float, seed: int, name: str) -> dict[str, Part]:
    """The splits with "test" and "val"; what is missing is carved from "train"."""
    splits = dict(splits)
    for split in ("test", "val"):
        if split not in splits:
            splits["train"], splits[split] = carve(splits["train"], fraction, seed, name)
    return splits


def carve(train: Part, fraction: float, seed: int, name: str) -> tuple[Part, Part]:
    """(what stays, what is carved off): a random share, in the proportions of the classes.

    At least one sample of each class stays, unless there is only one of each.
    """
    if not 0 < fraction < 1:
        raise BadInput(f"datamodule.val_fraction must lie between 0 and 1, not {fraction}")
    if train.num < 3:
        raise BadInput(f"'{name}' has {train.num} training samples, too few to carve a validation and a test split from")
    labels = train.labels
    if labels is None or np.issubdtype(labels.dtype, np.floating):
        labels = np.zeros(train.num, int)
    carved = stratified(labels, fraction, seed)
    stays = np.setdiff1d(np.arange(train.num), carved)
    if len(stays) == 0:  # one sample a class: then the classes cannot all be on both sides
        carved, stays = carved[: len(carved) // 2], carved[len(carved) // 2 :]
    else:
        classes, first = np.unique(labels[carved], return_index=True)
        back = carved[first[~np.isin(classes, labels[stays])]]
        stays, carved = np.union1d(stays, back), np.setdiff1d(carved, back)
    return train.subset(stays), train.subset(carved)


def stratified(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Sorted indices of a share of each class, at least one of each; nested: a larger fraction contains a smaller one.

    Targets of a regression (floats) are no classes: of them it is a plain random share.
    """
    if not 0 < fraction <= 1:
        raise BadInput(f"a fraction must lie between 0 and 1, not {fraction}")
    if np.issubdtype(labels.dtype, np.floating):
        labels = np.zeros(len(labels), int)
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        chosen.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(chosen))
