"""Classes: from labels as they are written to numbers and names."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import BadInput, nearest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labels:
    """As they are written in a collection.

    Attributes:
        codes: (num,) int64 into `names`; -1 where a sample has none.
        names: each once.
    """

    codes: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def of(cls, written: Iterable[str | None]) -> "Labels":
        """From one string, or None, a sample."""
        number: dict[str, int] = {}
        codes = [-1 if label is None else number.setdefault(label, len(number)) for label in written]
        return cls(np.array(codes, np.int64), tuple(number))


def numbered(parts: dict[str, Labels], classes: str | None, name: str) -> tuple[dict[str, np.ndarray | None], list[str]]:
    """(split -> (num,) class numbers, class names in their order); no labels and no names where a sample has none.

    Args:
        parts: split -> its labels.
        classes: a file of class names, one a line, in the order of their numbers; None takes the labels that there are.
        name: of the data set, for messages.

    Raises:
        BadInput: the file names a class twice, or a label that there is is not among its classes.
    """
    num_missing = sum(int((labels.codes < 0).sum()) for labels in parts.values())
    if num_missing:
        if any(labels.names for labels in parts.values()):
            log.warning("'%s': %d samples have no label, so the labels of all are left out", name, num_missing)
        return dict.fromkeys(parts), []
    written = {label for labels in parts.values() for label in labels.names}
    class_names = class_order(written) if classes is None else read_classes(classes)
    number = {label: i for i, label in enumerate(class_names)}
    if not written <= set(number):
        number = {str(i): i for i in range(len(class_names))}  # then labels are class numbers
    strange = class_order(written - set(number))
    if strange:
        choices = nearest(strange[0], class_names)
        raise BadInput(f"label '{strange[0]}' in '{name}' is not in datamodule.classes='{classes}'; {choices}")
    return {
        split: np.array([number[label] for label in labels.names], np.int64)[labels.codes] for split, labels in parts.items()
    }, class_names


def class_order(labels: Iterable[str]) -> list[str]:
    """Sorted: as numbers where all are numbers, else as names."""
    labels = list(labels)
    return sorted(labels, key=int) if all(label.removeprefix("-").isdecimal() for label in labels) else sorted(labels)


def read_classes(path: str) -> list[str]:
    """The lines of a file, without empty ones.

    Raises:
        BadInput: it cannot be read, is empty, or names a class twice.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"datamodule.classes='{path}' cannot be read: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise BadInput(f"datamodule.classes='{path}' holds no class names")
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise BadInput(f"datamodule.classes='{path}' names the class '{twice}' twice")
    return names
