"""What a data set is, known only after it has been opened. Encoders and objectives are built from it, never from guesses."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSpec:
    """The facts of an opened data set that a model or an objective may depend on.

    Attributes:
        name: the data set's name, as on the command line.
        modality: "image", "text" or "image_text".
        num_train: samples in the training split.
        image_size: side of the square pictures that the loaders give, in pixels.
        channels: colour channels of a picture (3, or 1 for grey sets).
        class_names: the names of the classes in label order; empty for unlabelled data.
    """

    name: str
    modality: str
    num_train: int
    image_size: int = 0
    channels: int = 0
    class_names: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        return len(self.class_names)
