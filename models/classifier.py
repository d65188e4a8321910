"""A linear layer from features to class scores, with the names of the classes."""

from typing import Any

from torch import Tensor, nn


class Classifier(nn.Linear):
    """Scores of classes.

    Args:
        width: D of the features.
        class_names: in label order.
    """

    modality = "image"

    def __init__(self, width: int, class_names: tuple[str, ...]):
        super().__init__(width, len(class_names))
        self.class_names = tuple(class_names)
        nn.init.trunc_normal_(self.weight, std=0.02)
        nn.init.zeros_(self.bias)

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(weights, what is needed to build the layer again), as encoders say theirs."""
        recipe = {
            "library": "headstart",
            "name": "classifier",
            "width": self.in_features,
            "class_names": list(self.class_names),
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}, recipe
