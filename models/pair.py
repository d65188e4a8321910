"""Two towers in one space: an image encoder and a text encoder, joined by projections, a text pooling and a scale.

Everything that compares pictures with texts goes through `PairHead`: features are projected and normalised there and
nowhere else.

Shapes: B rows, L tokens a row, C channels, H = W image size, D width of a tower, E embedding width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import BadInput, nearest
from models.encoder import Encoder, pool_tokens

if TYPE_CHECKING:  # importing transformers takes seconds that pictures need not wait for
    from models.text_encoder import TextEncoder

POOLS = ("end", "mean", "first")
WIDEST = 512  # of an embedding by default, as ViT-B has it in CLIP


class PairHead(nn.Module):
    """What joins two encoders.

    Args:
        image_width, text_width: D of the encoders.
        embedding_width: E.
        text_pool: "end" (the token that ends the text), "mean" of the tokens, or the "first" one.
        logit_scale: log of what similarities are multiplied by before a softmax or sigmoid.
        logit_bias: added after that, for a sigmoid; None has none.

    Attributes:
        logit_scale, logit_bias: (1,), because sharding knows no parameters without a dimension.
    """

    modality = "image_text"

    def __init__(
        self,
        image_width: int,
        text_width: int,
        embedding_width: int,
        text_pool: str,
        logit_scale: float = 0.0,
        logit_bias: float | None = None,
    ):
        super().__init__()
        if text_pool not in POOLS:
            raise BadInput(f"there is no text_pool '{text_pool}'; {nearest(text_pool, POOLS)}")
        if embedding_width < 1:
            raise BadInput(f"embedding_width must be positive, not {embedding_width}")
        self.text_pool = text_pool
        self.image = nn.Linear(image_width, embedding_width, bias=False)
        self.text = nn.Linear(text_width, embedding_width, bias=False)
        for projection in (self.image, self.text):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor([logit_scale]))
        self.logit_bias = None if logit_bias is None else nn.Parameter(torch.tensor([logit_bias]))

    @classmethod
    def between(
        cls,
        image_encoder: Encoder,
        text_encoder: TextEncoder,
        embedding_width: int | None = None,
        text_pool: str | None = None,
        logit_scale: float = 0.0,
        logit_bias: float | None = None,
    ) -> PairHead:
        """The head of two encoders.

        Args:
            embedding_width: by default that of the narrower tower, at most 512.
            text_pool: by default "end" where the text encoder is causal, as only that token has seen the others, else "mean".

        Raises:
            BadInput: the pooling is not possible with this encoder or its vocabulary.
        """
        text_pool = text_pool or ("end" if text_encoder.causal else "mean")
        if text_pool == "first" and text_encoder.causal:
            raise BadInput("text_pool=first: the first token of a causal model has seen no other; choices: end, mean")
        if text_pool in ("end", "first") and text_encoder.attention == "none":
            raise BadInput(f"text_pool={text_pool}: a token of word vectors has seen no other; choices: mean")
        if text_pool == "end" and text_encoder.vocabulary.end is None:
            raise BadInput("text_pool=end: this tokenizer has no token that ends a text; choices: mean, first")
        width = embedding_width or min(WIDEST, image_encoder.width, text_encoder.width)
        return cls(image_encoder.width, text_encoder.width, width, text_pool, logit_scale, logit_bias)

    def images(self, encoder: Encoder, views: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, E) unit vectors of pictures (B, C, H, W), uint8 or in [0, 1]; `keep` as in `Encoder.forward`."""
        return unit(self.image(encoder.embed(encoder.normalise(views), keep)))

    def texts(self, encoder: TextEncoder, ids_BL: Tensor, present_BL: Tensor) -> Tensor:
        """(B, E) unit vectors of texts: start, text, end, padding, of which `present_BL` (bool) leaves the padding out."""
        inputs = encoder.inputs({"ids": ids_BL, "present": present_BL})
        if self.text_pool == "end":
            vocabulary = encoder.vocabulary
            place_B = end_places(ids_BL, present_BL, vocabulary.end, has_start=vocabulary.start is not None)
            pooled_BD = encoder.at(inputs, place_B[:, None])[:, 0]
        else:
            pooled_BD = pool_tokens(encoder(inputs).tokens, present_BL, self.text_pool)
        return unit(self.text(pooled_BD))

    def exported(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(weights, what is needed to build the head again), as encoders say theirs."""
        recipe = {
            "library": "headstart",
            "name": "pair",
            "image_width": self.image.in_features,
            "text_width": self.text.in_features,
            "embedding_width": self.image.out_features,
            "text_pool": self.text_pool,
            "sigmoid": self.logit_bias is not None,
        }
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}, recipe


class Pair(nn.Module):
    """An image encoder, a text encoder and what joins them: what image-text pre-training leaves behind."""

    modality = "image_text"

    def __init__(self, image_encoder: Encoder, text_encoder: TextEncoder, head: PairHead):
        super().__init__()
        self.image_encoder, self.text_encoder, self.head = image_encoder, text_encoder, head

    def images(self, views: Tensor) -> Tensor:
        """(B, E) unit vectors of pictures (B, C, H, W), uint8 or in [0, 1], of the size that the image encoder takes."""
        return self.head.images(self.image_encoder, views)

    def texts(self, texts: list[str] | dict[str, Tensor]) -> Tensor:
        """(B, E) unit vectors of texts, or of their rows {"ids": (B, L) int64, "present": (B, L) bool}."""
        rows = self.rows(texts) if isinstance(texts, list) else texts
        return self.head.texts(self.text_encoder, rows["ids"], rows["present"])

    def rows(self, texts: list[str]) -> dict[str, Tensor]:
        """{"ids", "present"}: (B, L) rows of start, text, end, on the encoder's device; long texts are cut, the end stays."""
        from datamodules.rows import Rows, Texts

        samples = Texts([(text,) for text in texts], np.zeros(len(texts), np.int64))
        rows = Rows(samples, self.text_encoder.vocabulary, self.text_encoder.block_length)
        batch = rows.__getitems__([(0, i) for i in range(len(texts))])
        return {name: batch[name].to(self.head.logit_scale.device) for name in ("ids", "present")}


def end_places(ids_BL: Tensor, present_BL: Tensor, end: int, has_start: bool) -> Tensor:
    """(B,): where each text ends: its first end token; where it has none, its last token.

    The end token is found by its id. That it is the largest one, as OpenAI's code assumes, is true of few vocabularies.
    GPT-2's starts texts with the same token, so the place of a start token is passed over.
    """
    is_end_BL = ids_BL == end
    if has_start:
        is_end_BL = is_end_BL & (torch.arange(ids_BL.shape[1], device=ids_BL.device) > 0)
    last_B = present_BL.sum(1) - 1
    return torch.where(is_end_BL.any(1), is_end_BL.int().argmax(1), last_B)


def unit(vectors: Tensor) -> Tensor:
    """Normalised along the last dimension, in float32 or wider."""
    return F.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)
