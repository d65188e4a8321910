"""The small perceptrons between an encoder's features and a loss: projectors, predictors, expanders."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def projector(widths: Sequence[int], norm: bool = True, last_norm: str | None = None) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them.

    Args:
        widths: of the input, of every hidden layer, and of the output.
        norm: batch norm after every hidden layer. Linear layers then have no bias, without it they have one.
        last_norm: batch norm after the last layer: None, "scale" (it learns a scale, and its shift stays 0: one shift for all
            embeddings would bring them nearer to each other) or "plain" (it learns neither).
    """
    layers: list[nn.Module] = []
    for inside, outside in pairwise(widths):
        layers.append(nn.Linear(inside, outside, bias=not norm))
        layers += [nn.BatchNorm1d(outside)] * norm + [nn.ReLU(inplace=True)]
    layers = layers[: -1 - norm]  # nothing follows the last linear layer but what is asked for
    if last_norm is not None:
        layers.append(nn.BatchNorm1d(widths[-1], affine=last_norm == "scale"))
        if last_norm == "scale":
            layers[-1].bias.requires_grad_(False)
    return nn.Sequential(*layers)
