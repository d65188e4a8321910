"""Pictures in tar shards, WebDataset's format, with classes or without."""

from collections.abc import Sequence

from datamodules.classes import numbered
from datamodules.images import ImageData
from datamodules.samples import usual_size
from datamodules.shard_sample import Fields
from datamodules.shards import open_splits, reported_on
from errors import BadInput
from ranges import Count, Seed, ShareBelow1


class ImageShards(ImageData):
    """Pictures in shards; `val_shards` without `test_shards` are the test split, as in `WebDataset`.

    Args:
        shards, val_shards, test_shards: patterns, or lists of them, as `shard_files` takes them.
        image: extensions of the members that are pictures.
        label: members or fields of JSON members ("json.label") that hold the class; None for none.
        classes: a file of class names, one a line, where labels are numbers; None names classes as labels are written.
        image_size: None measures the first pictures and takes their median shorter side, at most 224 px.
        cache: folder of indices and fetched shards; None is $HEADSTART_CACHE or ~/.cache/headstart.
    Other arguments as in `ImageData`.

    Attributes:
        problems: what in the training shards could not be used -> how often.
    """

    def __init__(
        self,
        shards: str | list[str],
        val_shards: str | list[str] | None = None,
        test_shards: str | list[str] | None = None,
        image: str | Sequence[str] = ("jpg", "jpeg", "png", "webp"),
        label: str | Sequence[str] | None = ("cls", "json.label", "json.scene"),
        classes: str | None = None,
        image_size: Count | None = None,
        batch_size: Count = 128,
        val_fraction: ShareBelow1 = 0.1,
        split_seed: Seed = 0,
        cache: str | None = None,
    ):
        patterns = reported_on(shards, val_shards, test_shards, "image_shards")
        opened = open_splits(patterns, Fields.of(image=image, label=label), "image_shards", cache)
        self.problems = dict(opened["train"].problems)
        written = {split: part.labels for split, part in opened.items()}
        strange = sorted({name for labels in written.values() for name in labels.names} - set(written["train"].names))
        if strange and written["train"].names:
            raise BadInput(f"class '{strange[0]}' in 'image_shards' has no training pictures")
        labels, class_names = numbered(written, classes, "image_shards")
        splits = {split: part.pictures(labels[split]) for split, part in opened.items()}
        size = image_size or usual_size(splits["train"])
        super().__init__("image_shards", splits, class_names, size, batch_size, val_fraction, split_seed)
