"""What a data set is, known only after it has been opened. Encoders and objectives are built from it, never from guesses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # image data need no tokenizer library
    import numpy as np

    from datamodules.vocabulary import Vocabulary


@dataclass(frozen=True)
class DataSpec:
    """The facts of an opened data set that a model or an objective may depend on.

    Attributes:
        name: the data set's name, as on the command line.
        modality: "image", "text" or "image_text".
        num_train: samples in the training split.
        image_size: side of the square pictures that the loaders give, in pixels.
        channels: colour channels of a picture (3, or 1 for grey sets).
        class_names: the names of the classes in label order; empty for unlabelled data and for regression.
        block_length: tokens a row of the text that is pre-trained on.
        vocabulary: of text; what the ids in its batches mean.
        bytes_per_token: UTF-8 bytes of the validation text for each of its tokens, for bits per byte.
        token_counts: (ids of the tokenizer,) how often each occurs in running training text; None for other data.
        selection: the metric on which choices are made and that a task reports first: "accuracy", "matthews" or "spearman".
        replayed: of the data set of which each batch holds a share besides, if there is one.
    """

    name: str
    modality: str
    num_train: int
    image_size: int = 0
    channels: int = 0
    class_names: tuple[str, ...] = ()
    block_length: int = 0
    vocabulary: Vocabulary | None = None
    bytes_per_token: float = 0.0
    selection: str = "accuracy"
    token_counts: np.ndarray | None = field(default=None, repr=False, compare=False)
    replayed: DataSpec | None = field(default=None, repr=False)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def facts(self) -> dict[str, int | list[str]]:
        """What the order of training and the meaning of ids and classes hang on, in plain containers, by name."""
        old = {} if self.replayed is None else self.replayed.facts
        return {
            "training samples": self.num_train,
            "training tokens": 0 if self.token_counts is None else int(self.token_counts.sum()),
            "vocabulary": 0 if self.vocabulary is None else self.vocabulary.size,
            "classes": list(self.class_names),
        } | {f"replayed {name}": value for name, value in old.items()}
