"""Pictures with captions, as the image-text data modules give them: three colours, several captions a picture."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from conftest import text_batch, text_spec
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from datamodules.image_folder import ImageFolder
from datamodules.loading import batch_loader, complete_loader
from datamodules.order import Order
from datamodules.rows import Rows, Texts
from datamodules.samples import EvaluationView, Samples
from datamodules.spec import DataSpec
from datamodules.vocabulary import Vocabulary

SPECIAL = ["[SEP]", "[PAD]", "[UNK]", "[CLS]"]
WORDS = ["a", "picture", "that", "is", "mostly", "red", "green", "blue", "very"]
LENGTH = 16  # tokens of a caption, with start and end


def vocabulary() -> Vocabulary:
    """Whole words; the end token has the smallest id."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return Vocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special))


def pair_spec(image_size: int = 32) -> DataSpec:
    """Of small pictures with rows of `text_spec`."""
    return replace(text_spec(), modality="image_text", image_size=image_size, channels=3)


def pair_batch(num: int = 6, size: int = 32, seed: int = 0, length: int = 12) -> dict[str, Tensor]:
    """Random pictures, and rows that end at different places."""
    batch = text_batch(num, length, seed)
    generator = torch.Generator().manual_seed(seed)
    views = torch.randint(0, 256, (num, 1, 3, size, size), dtype=torch.uint8, generator=generator)
    end, pad = batch["ids"][0, -1].item(), 0
    lengths = torch.randint(3, length + 1, (num,), generator=generator)
    place = torch.arange(length)
    ids = batch["ids"].where(place < lengths[:, None], pad)
    ids = torch.where(place == lengths[:, None] - 1, end, ids)
    return batch | {"views": views, "ids": ids, "present": place < lengths[:, None], "corrupt": torch.tensor(0)}


@dataclass
class _Captioned(Dataset):
    """A caption of each picture is drawn anew in every epoch; evaluation takes the first."""

    samples: Samples
    captions: list[tuple[str, ...]]
    rows: Rows

    def __getitems__(self, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
        batch = self.samples.__getitems__(pairs)
        first = np.cumsum([0, *map(len, self.captions)])
        read = zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True)
        chosen = [(0, int(first[index] + epoch % len(self.captions[index]))) for epoch, index in read]
        return batch | {name: tensor for name, tensor in self.rows.__getitems__(chosen).items() if name in ("ids", "present")}


class TinyPairs:
    """The folder of the fixture `pictures`; the labelled task is its classes."""

    modality = "image_text"

    def __init__(self, root: str | Path, image_size: int = 32, batch_size: int = 8, tokenizer: Vocabulary | None = None):
        self.task = ImageFolder(str(root), image_size, batch_size, val_fraction=0.25)
        self.batch_size, self.splits = batch_size, self.task.splits
        self.spec = replace(
            self.task.spec,
            name="tiny_pairs",
            modality="image_text",
            block_length=LENGTH,
            vocabulary=tokenizer if isinstance(tokenizer, Vocabulary) else vocabulary(),
        )

    def captions(self, split: str) -> list[tuple[str, ...]]:
        names = [self.task.spec.class_names[label] for label in self.splits[split].labels]
        return [(f"a picture that is mostly {name}", name, f"very {name}")[: 1 + i % 3] for i, name in enumerate(names)]

    def rows(self, texts: list[str]) -> dict[str, Tensor]:
        samples = Texts([(text,) for text in texts], np.zeros(len(texts), int))
        batch = Rows(samples, self.spec.vocabulary, LENGTH).__getitems__([(0, i) for i in range(len(texts))])
        return {name: batch[name] for name in ("ids", "present")}

    def _samples(self, split: str, view, seed: int, substitute: bool) -> _Captioned:
        captions = self.captions(split)
        texts = [(text,) for own in captions for text in own]
        rows = Rows(Texts(texts, np.zeros(len(texts), int)), self.spec.vocabulary, LENGTH)
        return _Captioned(Samples(self.splits[split], 3, view, seed, substitute), captions, rows)

    def train_loader(
        self, view, seed, num_batches, first_batch=0, workers=0, rank=0, world_size=1, batch_size=None
    ) -> DataLoader:
        samples = self._samples("train", view or EvaluationView(self.spec.image_size), seed, True)
        order = Order(self.spec.num_train, batch_size or self.batch_size, num_batches, seed, first_batch, rank, world_size)
        return batch_loader(samples, order, workers)

    def evaluation_loader(self, split: str, limit: int | None = None, workers: int = 0) -> DataLoader:
        samples = self._samples(split, EvaluationView(self.spec.image_size), 0, False)
        return complete_loader(samples, self.splits[split].num, limit, workers)
