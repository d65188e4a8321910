"""A table of word vectors (Mikolov et al. 2013): a sentence is their mean.

Shapes: B rows, L tokens a row, D width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder, Features
from models.text_encoder import TextInputs
from ranges import Count


class WordVectors(Encoder):
    """One vector for each token of the vocabulary; what stands around a token changes nothing.

    Args:
        spec: the opened data; the vocabulary comes from it.
        width: D.
    """

    modality = "text"
    attention = "none"

    def __init__(self, spec: DataSpec, width: Count = 128):
        super().__init__()
        self.width, self.vocabulary, self.block_length = width, spec.vocabulary, spec.block_length
        self.net = nn.Embedding(spec.vocabulary.size, width)
        nn.init.uniform_(self.net.weight, -0.5 / width, 0.5 / width)  # the authors' code
        self.register_buffer("ordinary_V", torch.from_numpy(spec.vocabulary.ordinary), persistent=False)

    @property
    def blocks(self) -> list[nn.Module]:
        return []

    def layers(self) -> dict[str, int]:
        return {name: 0 for name, _ in self.named_parameters()}

    def set_drop_path(self, rate: float) -> None:
        """There are no blocks to drop."""

    def inputs(self, batch: dict[str, Tensor]) -> TextInputs:
        return TextInputs(batch["ids"], batch.get("present"))

    def forward(self, inputs: TextInputs, keep: Tensor | None = None) -> Features:
        """Pooled is the mean of the ordinary tokens: nothing is learned of special ones, padding among them."""
        if keep is not None:
            raise BadInput("text encoders cannot leave tokens out; the objective needs an image model")
        tokens_BLD = self.net(inputs.ids)
        counted_BL1 = self.ordinary_V[inputs.ids].unsqueeze(-1).to(tokens_BLD.dtype)
        pooled_BD = (tokens_BLD * counted_BL1).sum(1) / counted_BL1.sum(1).clamp(min=1)
        return Features(tokens_BLD, pooled_BD, tokens_BLD[:, :0])

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        recipe = {
            "library": "headstart",
            "name": "word_vectors",
            "arguments": {"width": self.width},
            "block_length": self.block_length,
            "width": self.width,
            **self.vocabulary.recipe(),
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.net.state_dict().items()}, recipe
