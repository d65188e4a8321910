"""What transfers: the contract that every backbone fulfils, whatever library it comes from.

Shapes: B rows, N tokens a row, D width, K kept patches a row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

POOLED = "pooled"  # the readout that is the encoder's own pooling
ALL_LAYERS = "all layers"  # the one that has all side by side


@dataclass(frozen=True)
class Features:
    """What an encoder makes of its inputs.

    Attributes:
        tokens: (B, N, D), patches or positions, without class or register tokens.
        pooled: (B, D), one vector a sample; how it is pooled is the encoder's choice and stands in `encoder.json`.
        prefix: (B, P, D), class and register tokens, P = 0 where a backbone has none.
    """

    tokens: Tensor
    pooled: Tensor
    prefix: Tensor


class Encoder(nn.Module):
    """A backbone behind one small contract.

    Attributes:
        modality: what it reads: "image", "text".
        width: D, of tokens and of the pooled vector.
        pretrained: whether the weights came from somewhere; objectives then leave their initialisation alone.
        drops_patches: whether `keep` works, that is, whether patches can be left out before the blocks.
        attention: what else a token of a text sees: everything ("bidirectional"), what comes before it ("causal"), nothing
            ("none"), or one half of its vector what comes before and the other what follows ("directions").
        causal: whether tokens see only those before them.
        num_tokens: that attention compares on inputs of the size that the encoder was built for; 0 without attention.
        num_patches: N of a picture of the size that the encoder was built for.
        patch_size: side of a patch in pixels; 0 where there are no patches.
    """

    modality: ClassVar[str]
    attention: str | None = None
    width: int
    pretrained: bool = False
    drops_patches: bool = False
    causal: bool = False
    num_tokens: int = 0
    num_patches: int = 0
    patch_size: int = 0

    @property
    def blocks(self) -> list[nn.Module]:
        """The stages from input to output, for layer-wise decay and for sharding."""
        raise NotImplementedError

    def layers(self) -> dict[str, int]:
        """Which layer each parameter belongs to: 0 the embedding, i + 1 block i, len(blocks) + 1 what follows them."""
        raise NotImplementedError

    def set_drop_path(self, rate: float) -> None:
        """Stochastic depth of the blocks, `rate` at the last one; for fine-tuning."""
        raise NotImplementedError

    def takes(self, image_size: int) -> bool:
        """Whether pictures of this side can be read too, not only of the one that the encoder was built for."""
        return False

    def inputs(self, batch: dict[str, Tensor]) -> Any:
        """From a batch of a data set (the first view of pictures, or tokens) to what `forward` expects."""
        raise NotImplementedError

    def forward(self, inputs: Any, keep: Tensor | None = None) -> Features:
        """Encode `inputs(batch)`; `keep` (B, K) holds the patches to keep, the others never enter the blocks."""
        raise NotImplementedError

    def embed(self, inputs: Any, keep: Tensor | None = None) -> Tensor:
        """(B, D): what `forward` gives as `pooled`, and cheaper where that is read from one token."""
        return self(inputs, keep).pooled

    def at(self, inputs: Any, place_BK: Tensor) -> Tensor:
        """(B, K, D): what `forward` gives as tokens, at some places only, and cheaper where the last layer can be spared."""
        return take(self(inputs).tokens, place_BK)

    @property
    def readout_names(self) -> tuple[str, ...]:
        """Among what a frozen probe may choose, the encoder's own pooling first.

        `ALL_LAYERS` has several times the width, so a probe takes it only where it is asked for.
        """
        return (POOLED,)

    def readouts(self, inputs: Any, names: Iterable[str]) -> dict[str, Tensor]:
        """Vectors (B, any width) of those names that are asked for."""
        return {POOLED: self.embed(inputs)}

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(weights under the source library's own names, what is needed to build the module again)."""
        raise NotImplementedError


def take(tokens_BND: Tensor, index_BK: Tensor) -> Tensor:
    """tokens_BND at index_BK along dimension 1: (B, K, D)."""
    return tokens_BND.gather(1, index_BK.unsqueeze(-1).expand(-1, -1, tokens_BND.shape[-1]))


def pool_tokens(tokens_BND: Tensor, present_BN: Tensor | None, pool: str) -> Tensor:
    """(B, D): the "mean" of each row, its "first" token or its "last"; padding, where `present_BN` is False, does not count."""
    if pool == "first":
        return tokens_BND[:, 0]
    if present_BN is None:
        return tokens_BND.mean(1) if pool == "mean" else tokens_BND[:, -1]
    if pool == "mean":
        weight_BN1 = present_BN.unsqueeze(-1).to(tokens_BND.dtype)
        return (tokens_BND * weight_BN1).sum(1) / weight_BN1.sum(1)
    return tokens_BND[torch.arange(len(tokens_BND)), present_BN.sum(1) - 1]
