"""The contract of a pre-training objective: what is hidden, what must be predicted, how wrong it was."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from PIL.Image import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from errors import BadInput
from models.encoder import Encoder
from objectives.draw import Draw

Batch = dict[str, Tensor]
View = Callable[[list[Image], int, Tensor, Tensor], Tensor | Batch]
"""(B pictures, seed, epoch (B,), index (B,)) -> (B, V, C, H, W) uint8: what a data worker does; must be picklable.

Views of several sizes come as {"views": ..., other names: ...}.
"""
TextView = Callable[[Any, int], Dataset]
"""(`Blocks` of running text, seed) -> as many samples made of them, whose `__getitems__` gives batches; picklable too."""


@dataclass(frozen=True)
class Outcome:
    """What a forward pass says.

    Attributes:
        loss: scalar, trained on.
        report: detached scalars that are only logged, never summed into the loss.
    """

    loss: Tensor
    report: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Likelihood:
    """How well held-out text is predicted.

    Attributes:
        kind: "bits_per_byte" of text that is generated, "pseudo_perplexity" of masked tokens,
            "generator_pseudo_perplexity" of the same where a network beside the encoder predicts them, "span_perplexity" of
            spans, or "caption_perplexity" of captions, given their pictures, or "code_perplexity" of pictures, given their
            captions.
        nats: sum over the targets.
        num_targets: how many.
    """

    kind: str
    nats: Tensor
    num_targets: Tensor


class Objective(nn.Module):
    """Owns its heads, decoders and teachers, and is given the encoder.

    Attributes:
        modality: of the data, and of the encoder unless `encodes` says another one.
        encodes: what the encoder reads of data that are more than that: "image" or "text" of "image_text".
        needs: batch keys it reads; "label" demands a labelled data set.
        keeps_encoder: whether the encoder stays as it is, so that it must have learned before.
        drops_patches: whether the encoder must be able to leave patches out.
        attention: what the encoder must have, as `Encoder.attention` names it; None takes any.
        smallest_batch: of which the loss can be computed; 2 where samples are compared or batch norms have vectors.
        shown: the split of which `pictures` and `texts` get a batch: "train", in the objective's own views, or "val".
        unreached: names of weights that its loss does not reach and that are frozen for it, where somebody has looked.
    """

    modality: ClassVar[str]
    encodes: ClassVar[str | None] = None
    needs: ClassVar[tuple[str, ...]] = ()
    keeps_encoder: ClassVar[bool] = False
    drops_patches: ClassVar[bool] = False
    attention: ClassVar[str | None] = None
    smallest_batch: ClassVar[int] = 1
    shown: ClassVar[str] = "train"
    unreached: frozenset[str] = frozenset()

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def check_batch(self, batch_size: int) -> None:
        """Raise BadInput where global batches of this size cannot be trained on."""
        if batch_size < self.smallest_batch:
            raise BadInput(f"datamodule.batch_size={batch_size} is too small for this objective; {self.smallest_batch} or more")

    def views(self) -> View | TextView | None:
        """What data workers do to pictures or to running text, or None for the plain evaluation view."""
        return None

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        """The loss of one batch."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Move teachers and queues after an optimiser step; `progress` runs from 0 to 1 over the budget."""

    def exports(self) -> dict[str, nn.Module]:
        """What a run leaves behind, by the name of its files: modules that have `exported`, as encoders do."""
        return {"encoder": self.encoder}

    def pictures(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """What a person would look at: named images (C, H, W) in [0, 1], of a fixed small batch."""
        return {}

    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """What a person would read: named markdown texts, of the same small batch."""
        return {}

    def likelihood(self, batch: Batch) -> Likelihood | tuple[Likelihood, ...] | None:
        """How well a held-out batch is predicted, in a way, or several, that do not depend on the objective's own settings."""
        return None
