"""Image-text pairs in tar shards, WebDataset's format, on this machine or in an object store."""

from collections.abc import Sequence

from datamodules.classes import numbered
from datamodules.image_text import Captioned, ImageTextData
from datamodules.samples import usual_size
from datamodules.shard_sample import Fields
from datamodules.shards import open_splits, reported_on
from datamodules.vocabulary import Vocabulary
from ranges import Count, Seed, ShareBelow1


class WebDataset(ImageTextData):
    """Pictures with captions in shards.

    The splits are those of `shards`, `val_shards` and `test_shards`. Where only the first two are given, what they hold
    out is what results are reported on: `val_shards` are the test split, and val is carved from the training samples.
    Without them, both are carved.

    Args:
        shards, val_shards, test_shards: patterns, or lists of them, as `shard_files` takes them.
        image: extensions of the members that are pictures.
        caption: members or fields of JSON members ("json.captions") that hold a caption or a list of them.
        label: the same for the class of a picture; None for none.
        classes: a file of class names, one a line, where labels are numbers; None names classes as labels are written.
        image_size: None measures the first pictures and takes their median shorter side, at most 224 px.
    Other arguments as in `ImageTextData`.

    Attributes:
        problems: what in the training shards could not be used -> how often.
    """

    def __init__(
        self,
        shards: str | list[str],
        tokenizer: dict | Vocabulary,
        val_shards: str | list[str] | None = None,
        test_shards: str | list[str] | None = None,
        image: str | Sequence[str] = ("jpg", "jpeg", "png", "webp"),
        caption: str | Sequence[str] = ("txt", "json.caption", "json.captions"),
        label: str | Sequence[str] | None = ("cls", "json.label", "json.scene"),
        classes: str | None = None,
        image_size: Count | None = None,
        batch_size: Count = 128,
        max_length: Count = 32,
        fixed_length: bool = False,
        val_fraction: ShareBelow1 = 0.1,
        split_seed: Seed = 0,
        cache: str | None = None,
    ):
        patterns = reported_on(shards, val_shards, test_shards, "webdataset")
        fields = Fields.of(image=image, text=caption, label=label)
        opened = open_splits(patterns, fields, "webdataset", cache)
        self.problems = dict(opened["train"].problems)
        labels, class_names = numbered({split: part.labels for split, part in opened.items()}, classes, "webdataset")
        splits = {split: Captioned(part.pictures(labels[split]), part.texts, part.content) for split, part in opened.items()}
        super().__init__(
            "webdataset",
            splits,
            class_names,
            tokenizer,
            image_size or usual_size(splits["train"].pictures),
            batch_size,
            max_length,
            fixed_length,
            val_fraction,
            split_seed,
            cache=cache,
        )
