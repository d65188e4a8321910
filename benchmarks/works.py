"""What is measured: an objective of this project, as its own configuration builds it, on made-up data of a given shape.

Values do not change the speed, shapes do: tokens are random ids, pictures soft noise, captions rows of several lengths.

Shapes: B samples a step, L tokens a row, V views, S pixels a side.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
import PIL.Image
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerFast

from conf import build, modality
from conf.composition import compose_settings
from datamodules.spec import DataSpec
from datamodules.vocabulary import Vocabulary
from objectives.objective import Batch, Objective
from training.continuation import Start

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))
IN_MEMORY = 8  # batches, which come again and again
ENDLESS = 2**40  # steps of a run that is ended from outside
UNITS = {"image": "images", "text": "tokens", "image_text": "pairs"}


@dataclass(frozen=True)
class Work:
    """An objective and the shape of its batches, in the words of the command line.

    Attributes:
        objective, model: choices of the groups.
        batch: samples a step.
        image_size: S.
        length: L, of a block of text or of the longest caption.
        vocabulary: ids, special ones included.
        words: what else stands on the command line, "model.depth=6".
        from_pictures: whether a batch is cut out of pictures in each step, as the objective's own views say, or lies ready.
    """

    objective: str
    model: str
    batch: int
    image_size: int = 0
    length: int = 0
    vocabulary: int = 0
    words: tuple[str, ...] = ()
    from_pictures: bool = False

    @property
    def modality(self) -> str:
        return modality("objective", self.objective)

    @property
    def unit(self) -> str:
        return UNITS[self.modality]

    @property
    def units_a_step(self) -> int:
        return self.batch * (self.length if self.modality == "text" else 1)

    @cached_property
    def spec(self) -> DataSpec:
        vocabulary = Vocabulary(tokenizer(self.vocabulary)) if self.vocabulary else None
        shape = {"block_length": self.length, "vocabulary": vocabulary} if self.length else {}
        return DataSpec("made_up", self.modality, self.batch * IN_MEMORY, self.image_size, 3, **shape)

    @cached_property
    def config(self) -> dict[str, Any]:
        """What train.py would compose; the data are made up, so what says where others lie may be missing."""
        words = (f"objective={self.objective}", f"model={self.model}", *self.words)
        settings, choices = compose_settings("train", words, complete=False)
        return settings | {"names": choices}

    def build(self) -> Objective:
        """The objective with fresh weights, the same every time."""
        torch.manual_seed(0)
        encoder = Start.of(self.config).build_encoder(self.spec)
        return build(self.config["objective"], encoder=encoder, spec=self.spec)

    def ids(self) -> Tensor:
        """(IN_MEMORY x B, L) random tokens, [CLS] first."""
        shape = (self.batch * IN_MEMORY, self.length)
        ids_BL = torch.randint(len(SPECIAL), self.vocabulary, shape, generator=torch.Generator().manual_seed(0))
        ids_BL[:, 0] = CLS
        return ids_BL

    def captions(self) -> tuple[Tensor, Tensor]:
        """(ids, present), each (IN_MEMORY x B, L): start, text, end, padding; a quarter to all of L long, evenly spread."""
        ids_BL = self.ids()
        generator = torch.Generator().manual_seed(1)
        length_B = torch.randint(max(3, self.length // 4), self.length + 1, (len(ids_BL),), generator=generator)
        place_L = torch.arange(self.length)
        ids_BL[torch.arange(len(ids_BL)), length_B - 1] = SEP
        present_BL = place_L < length_B[:, None]
        return ids_BL.masked_fill(~present_BL, PAD), present_BL

    def pixels(self, num_views: int = 1) -> Tensor:
        """(IN_MEMORY x B, V, 3, S, S) uint8 noise."""
        shape = (self.batch * IN_MEMORY, num_views, 3, self.image_size, self.image_size)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def pictures(self) -> list[PIL.Image.Image]:
        """IN_MEMORY x B pictures of S pixels a side, soft noise."""
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (self.batch * IN_MEMORY, 8, 8, 3), dtype=np.uint8)
        return [PIL.Image.fromarray(noise).resize((self.image_size, self.image_size)) for noise in coarse]

    def batches(self, objective: Objective) -> "Batches":
        """The endless stream that a loader of this project would give."""
        return Batches(self, objective)

    def with_batch(self, batch: int) -> "Work":
        return replace(self, batch=batch)

    def described(self) -> str:
        """For a table: mlm bert_mini, 64 x 128 tokens."""
        shape = f"{self.batch} x {self.length} tokens" if self.modality == "text" else f"{self.batch} x {self.image_size} px"
        settings = "".join(f" {word.partition('.')[2]}" for word in self.words if word.startswith("model."))
        return f"{self.objective} {self.model}{settings}, {shape}"


class Batches(IterableDataset):
    """Endless batches: IN_MEMORY of them in turn, each with new sample numbers, so that every step draws anew.

    They lie ready, as a loader of this project hands out whole batches; trainers that put a batch together of samples in the
    process that trains do so within their steps.
    """

    def __init__(self, work: Work, objective: Objective):
        self.work, self.view, self.is_pinned = work, None, False
        self.stored: dict[str, Tensor] = {}
        if work.modality == "image_text":
            self.stored["ids"], self.stored["present"] = work.captions()
        elif work.modality == "text":
            self.stored["ids"] = work.ids()
        if work.from_pictures:
            self.pictures, self.view = work.pictures(), objective.views()
        elif work.image_size:
            self.stored["views"] = work.pixels(getattr(objective.views(), "num", 1))

    def pinned(self) -> "Batches":
        """Themselves, in memory from which a GPU reads while it computes, as a loader of this project fills it."""
        self.is_pinned = True
        self.stored = {name: stored.pin_memory() for name, stored in self.stored.items()}
        return self

    def __iter__(self) -> Iterator[Batch]:
        for step in range(ENDLESS):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """The batch of one step."""
        size = self.work.batch
        rows = slice(step % IN_MEMORY * size, (step % IN_MEMORY + 1) * size)
        index_B = torch.arange(size) + step * size
        facts = {"index": index_B, "epoch": torch.zeros_like(index_B), "corrupt": torch.tensor(0)}
        if self.is_pinned:  # a GPU would wait for numbers in other memory
            facts = {name: fact.pin_memory() for name, fact in facts.items()}
        batch = {name: stored[rows] for name, stored in self.stored.items()} | facts
        if self.view is not None:
            batch["views"] = self.view(self.pictures[rows], 0, batch["epoch"], index_B)
        return batch


@cache
def tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of `size` pieces, of which three in four begin a word; no text is tokenised here."""
    pieces = [*SPECIAL.values(), *(f"w{i}" if i % 4 else f"##w{i}" for i in range(size - len(SPECIAL)))]
    model = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=model, **SPECIAL)
