"""Labelled or unlabelled pictures as batches of tensors, whatever collection they come from.

A collection (emoji, a folder, a torchvision set) says where its pictures are and which class each has; the splits, the
order, decoding, skipping of corrupt files and batching are here, the same for all.

Shapes: B samples, V views, C channels, H = W image size.
"""

from collections.abc import Callable

from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.loading import batch_loader, batches, complete_loader
from datamodules.order import Order
from datamodules.samples import EvaluationView, Pictures, Samples
from datamodules.spec import DataSpec
from datamodules.splits import Labelled, carve, complete, stratified
from errors import BadInput

__all__ = ["ImageData", "batches", "carve", "stratified"]


class ImageData(Labelled):
    """An opened image data set: `spec`, and loaders over its splits.

    Args:
        name: as on the command line.
        splits: "train" and, where the collection has them, "val" and "test". What it has not is carved from train.
        class_names: in label order; empty for unlabelled pictures.
        image_size: side of the pictures that the loaders give; None is the collection's own size (`native_size`).
        channels: 3, or 1 for grey collections.
        batch_size: the global training batch.
        val_fraction: share of the training split that becomes the validation (or test) split where there is none.
        split_seed: of that carving.
    """

    modality = "image"

    def __init__(
        self,
        name: str,
        splits: dict[str, Pictures],
        class_names: list[str],
        image_size: int,
        batch_size: int,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        channels: int = 3,
    ):
        self.splits = splits = complete(splits, val_fraction, split_seed, name)
        self.batch_size = batch_size
        if batch_size < 1 or batch_size > splits["train"].num:
            raise BadInput(
                f"datamodule.batch_size={batch_size} does not fit: '{name}' has {splits['train'].num} training pictures, "
                f"so at most {splits['train'].num}"
            )
        self.spec = DataSpec(name, self.modality, splits["train"].num, image_size, channels, tuple(class_names))

    def train_loader(
        self,
        view: Callable[..., Tensor] | None,
        seed: int,
        num_batches: int,
        first_batch: int = 0,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
    ) -> DataLoader:
        """Training batches in their order: {"views": (B, V, C, H, W) uint8, "label", "epoch", "index": (B,), "corrupt"}.

        `view(pictures, seed, epoch, index)` is what the objective wants done to pictures. A corrupt picture is replaced
        by the next readable one, so that batches keep their size, and counted in "corrupt".
        """
        pictures = self.splits["train"]
        samples = Samples(pictures, self.spec.channels, view or EvaluationView(self.spec.image_size), seed, substitute=True)
        order = Order(
            pictures.num, batch_size or self.batch_size, num_batches, seed, first_batch, rank, world_size, pictures.shard
        )
        return batch_loader(samples, order, workers)

    def evaluation_loader(self, split: str, limit: int | None = None, workers: int = 0) -> DataLoader:
        """Each picture of a split once, in order, evaluation view, {"views": (B, 1, C, H, W) uint8, "label", "index"}.

        Corrupt pictures are left out. `limit` takes that many pictures, evenly spaced.
        """
        pictures = self.splits[split]
        samples = Samples(pictures, self.spec.channels, EvaluationView(self.spec.image_size), 0, substitute=False)
        return complete_loader(samples, pictures.num, limit, workers)
