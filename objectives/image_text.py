"""Contrastive image-text learning: two towers whose embeddings are compared; how is the loss's choice (`clip`, `siglip`).

Input:  pictures, slightly cropped, and their captions as rows of start, caption, end.
Target: which picture and which caption of the batch belong together.

Shapes: b pairs on this rank, L tokens a caption, N patches, K kept patches, E embedding width.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder
from models.pair import Pair, PairHead
from models.text_encoder import TextEncoder
from objectives.draw import Draw
from objectives.grad_cache import in_chunks
from objectives.objective import Batch, Objective, Outcome
from objectives.text_tables import in_a_table
from objectives.views import Crops, CropScale
from ranges import Count, Share, ShareBelow1

CELL = 16  # pixels of a similarity in the picture of them
SHOWN = 3  # captions a picture


class ContrastiveLoss(Protocol):
    """How embeddings are compared, and where its learned numbers begin.

    Attributes:
        initial_scale: log of what cosines are multiplied by, at the start.
        largest_scale: to which that is clamped after each step, as it is from below to 0; None clamps nothing.
        initial_bias: added to the logits; None has none.
    """

    initial_scale: float
    largest_scale: float | None
    initial_bias: float | None

    def __call__(
        self, image_bE: Tensor, text_bE: Tensor, logit_scale: Tensor, logit_bias: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, report) of unit vectors in the same order."""


class ImageText(Objective):
    """Image tower, text tower, a projection of each into one space, and a loss over it.

    Args:
        encoder: the image tower; its pooled features are projected.
        spec: the opened data.
        loss: compares the embeddings.
        text_model: (spec, settings) -> the text tower.
        text_settings: of the text tower; None is its own.
        text_pool, embedding_width: as in `PairHead.between`.
        crop_scale: area range of the random resized crop.
        flip: probability of a horizontal flip.
        quarter_turns: whether pictures are turned by 0, 90, 180 or 270 degrees; seen from above there is no up.
        patch_dropout: share of the patches that the image tower does not see while training (Li et al. 2023, "FLIP").
        lock_image, lock_text: the tower keeps its weights and is in eval mode (Zhai et al. 2022, "LiT").
        grad_cache: {"chunks": in how many parts a batch goes through the towers}.

    Raises:
        BadInput: settings out of range, or that the towers cannot do.
    """

    modality = "image_text"
    encodes = "image"
    needs = ("views", "ids", "present")

    def __init__(
        self,
        encoder: Encoder,
        spec: DataSpec,
        loss: ContrastiveLoss,
        text_model: Callable[..., TextEncoder],
        text_settings: dict[str, Any] | None = None,
        text_pool: str | None = None,
        embedding_width: Count | None = None,
        crop_scale: CropScale = (0.9, 1.0),
        flip: Share = 0.0,
        quarter_turns: bool = False,
        patch_dropout: ShareBelow1 = 0.0,
        lock_image: bool = False,
        lock_text: bool = False,
        grad_cache: dict[str, Count] | None = None,
    ):
        super().__init__(encoder)
        given = {key: value for key, value in (text_settings or {}).items() if value is not None}
        self.text_encoder = text_model(spec, **given)
        self.head = PairHead.between(
            encoder, self.text_encoder, embedding_width, text_pool, loss.initial_scale, loss.initial_bias
        )
        self.loss, self.crops = loss, Crops(spec.image_size, 1, tuple(crop_scale), flip=flip, quarter_turns=quarter_turns)
        self.locked = [name for name, locked in (("encoder", lock_image), ("text_encoder", lock_text)) if locked]
        for name in self.locked:
            getattr(self, name).requires_grad_(False)
        self.num_kept = self._kept_patches(patch_dropout)
        self.num_chunks = self._chunks((grad_cache or {}).get("chunks", 1))
        self.train()

    def _kept_patches(self, patch_dropout: float) -> int | None:
        """How many patches the image tower sees while training; None is all."""
        if patch_dropout == 0:
            return None
        if not self.encoder.drops_patches:
            raise BadInput("objective.patch_dropout needs a model that can drop patches; fits: vit_t, vit_s, vit_b, vit_l")
        kept = round(self.encoder.num_patches * (1 - patch_dropout))
        if not 0 < kept <= self.encoder.num_patches:
            raise BadInput(f"objective.patch_dropout={patch_dropout} keeps {kept} of {self.encoder.num_patches} patches")
        return kept

    def _chunks(self, num_chunks: int) -> int:
        if num_chunks < 1:
            raise BadInput(f"objective.grad_cache.chunks must be 1 or more, not {num_chunks}")
        mixes = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in self.encoder.modules())
        if num_chunks > 1 and mixes and "encoder" not in self.locked:
            raise BadInput(
                "objective.grad_cache.chunks: batch norm would see chunks instead of the batch; a model without fits: vit_t"
            )
        return num_chunks

    def train(self, mode: bool = True) -> "ImageText":
        super().train(mode)
        for name in self.locked:
            getattr(self, name).eval()
        return self

    def views(self) -> Crops:
        return self.crops

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        image_bE, text_bE = self.embed(batch, draw)
        loss, report = self.loss(image_bE, text_bE, self.head.logit_scale, self.head.logit_bias)
        return Outcome(loss, report | {"temperature": (-self.head.logit_scale.detach()).exp()[0]})

    def embed(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor]:
        """(b, E) unit vectors of the pictures and of the captions."""
        keep_bK = None
        if self.training and self.num_kept is not None:
            keep_bK = draw.permutation("patch dropout", self.encoder.num_patches)[:, : self.num_kept]
        image_bE = in_chunks(
            lambda views, keep: self.head.images(self.encoder, views, keep), self.num_chunks, batch["views"][:, 0], keep_bK
        )
        text_bE = in_chunks(
            lambda ids, present: self.head.texts(self.text_encoder, ids, present),
            self.num_chunks,
            batch["ids"],
            batch["present"],
        )
        return image_bE, text_bE

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        if self.loss.largest_scale is not None:
            self.head.logit_scale.clamp_(0, self.loss.largest_scale)

    @property
    def pair(self) -> Pair:
        """Both towers with what joins them; the modules are shared, not copied."""
        return Pair(self.encoder, self.text_encoder, self.head)

    def exports(self) -> dict[str, nn.Module]:
        return {"image_encoder": self.encoder, "text_encoder": self.text_encoder, "pair": self.head}

    @torch.no_grad()
    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """A row for each picture, a column for each caption: black is a cosine of -1, white is 1; pairs are the diagonal."""
        image_bE, text_bE = self.embed(batch, draw)
        cosine = image_bE @ text_bE.T
        cells = ((cosine + 1) / 2).clamp(0, 1).repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)
        return {"similarities": cells[None]}

    @torch.no_grad()
    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """For each picture its caption, and the nearest ones of this batch with their cosines."""
        image_bE, text_bE = self.embed(batch, draw)
        nearest = (image_bE @ text_bE.T).topk(min(SHOWN, len(text_bE)))
        tokenizer = self.text_encoder.vocabulary.tokenizer
        captions = [in_a_table(tokenizer, ids[present]) for ids, present in zip(batch["ids"], batch["present"], strict=True)]
        rows = [
            f"| {own} | " + ", ".join(f"{captions[i]} ({value:.2f})" for value, i in zip(values, found, strict=True)) + " |"
            for own, values, found in zip(captions, nearest.values.tolist(), nearest.indices.tolist(), strict=True)
        ]
        return {"nearest_captions": "\n".join(["| caption | nearest captions |", "|---|---|", *rows])}
