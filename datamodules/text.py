"""Running text as blocks of tokens to pre-train on, whatever corpus it comes from.

A corpus (King James Bible, files, a Hugging Face set) says which documents it has; tokenizer, cache, splits, blocks and
their order are here, the same for all.

Shapes: B blocks, L tokens a block.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from torch.utils.data import DataLoader, Dataset

from datamodules.blocks import Blocks
from datamodules.corpus import Corpus, Document
from datamodules.loading import EVALUATION_BATCH, batch_loader, complete_loader
from datamodules.order import Order
from datamodules.spec import DataSpec
from datamodules.text_task import TextTask
from datamodules.token_cache import open_tokens
from datamodules.tokenizer import tokenizer_for
from datamodules.vocabulary import Vocabulary
from errors import BadInput

SHORTEST = 8  # tokens of a block
EVALUATION_TOKENS = 1 << 15  # of an evaluation batch


class TextData:
    """An opened corpus: `spec`, and loaders over the blocks of its splits.

    Args:
        name: as on the command line.
        identity: changes whenever the text does; can be written as JSON.
        documents: counter of problems -> the documents, in the same order each time.
        tokenizer: how one is trained or selected, as `tokenizer_for` takes it, or a vocabulary.
        block_length: L, the start token included.
        batch_size: the global training batch, in blocks.
        start_token: whether every block begins with the start token, where the tokenizer has one.
        isolate_documents: whether batches tell the documents in a block apart.
        num_sentinels: ids behind the tokenizer's, for span corruption.
        val_fraction: share of the documents (of each one, where they are fewer than 20) that validates.
        split_seed: of the choice of these documents.
        cache: folder of tokenizers and token streams; None is $HEADSTART_CACHE or ~/.cache/headstart.

    Attributes:
        problems: what in the corpus could not be used as it was -> how often.

    Raises:
        BadInput: there is no text, or not enough of it for one block in each split or for one batch.
    """

    modality = "text"

    def __init__(
        self,
        name: str,
        identity: object,
        documents: Callable[[Counter], Iterator[Document]],
        tokenizer: dict | Vocabulary,
        block_length: int = 128,
        batch_size: int = 64,
        start_token: bool = True,
        isolate_documents: bool = False,
        num_sentinels: int = 0,
        val_fraction: float = 0.05,
        split_seed: int = 0,
        cache: str | None = None,
    ):
        if block_length < SHORTEST:
            raise BadInput(f"datamodule.block_length={block_length} is too short: at least {SHORTEST} tokens")
        self.corpus = corpus = Corpus(name, identity, documents, val_fraction, split_seed)
        if not isinstance(tokenizer, Vocabulary):
            trained = tokenizer_for(tokenizer, corpus.training_texts, corpus.identity, cache)
            tokenizer = Vocabulary(trained, num_sentinels)
        self.vocabulary = vocabulary = tokenizer
        tokens = open_tokens(corpus, vocabulary, cache)
        self.problems = tokens.problems
        start = vocabulary.start if start_token else None
        self.splits = {
            split: Blocks(stream, block_length, start, isolate_documents)
            for split, stream in tokens.streams.items()
            if stream.num_tokens or split != "test"
        }
        self._check_length(name, block_length)
        num_train = self.splits["train"].num
        if batch_size < 1 or batch_size > num_train:
            few = f"'{name}' has {num_train} training blocks, so at most {num_train}"
            raise BadInput(f"datamodule.batch_size={batch_size} does not fit: {few}")
        self.batch_size = batch_size
        validation = tokens.streams["val"]
        self.spec = DataSpec(
            name,
            self.modality,
            num_train,
            block_length=block_length,
            vocabulary=vocabulary,
            bytes_per_token=validation.num_bytes / validation.num_tokens,
            token_counts=tokens.streams["train"].token_counts,
        )

    def _check_length(self, name: str, block_length: int) -> None:
        shortest = min(self.splits, key=lambda split: self.splits[split].stream.num_tokens)
        if self.splits[shortest].num == 0:
            num_tokens = self.splits[shortest].stream.num_tokens
            longest = num_tokens + block_length - self.splits[shortest].stride
            raise BadInput(
                f"'{name}' is too short: {num_tokens} tokens in the split '{shortest}' make no block of {block_length}; "
                f"datamodule.block_length can be at most {longest}"
                if longest >= SHORTEST
                else f"'{name}' is too short: {num_tokens} tokens in the split '{shortest}' make no block; give more text"
                + (" or a larger datamodule.val_fraction" if shortest == "val" else "")
            )

    def train_loader(
        self,
        view: Callable[[Blocks, int], Dataset] | None,
        seed: int,
        num_batches: int,
        first_batch: int = 0,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
    ) -> DataLoader:
        """Training batches in their order, as `Blocks` makes them: what to hide is drawn on the device.

        A `view` makes other samples of the blocks, as many: (blocks, seed) -> samples.
        """
        blocks = self.splits["train"]
        order = Order(blocks.num, batch_size or self.batch_size, num_batches, seed, first_batch, rank, world_size)
        return batch_loader(blocks if view is None else view(blocks, seed), order, workers)

    def evaluation_loader(self, split: str, limit: int | None = None, workers: int = 0) -> DataLoader:
        """Each block of a split once, in order. `limit` takes that many blocks, evenly spaced."""
        blocks = self.splits[split]
        batch_size = min(EVALUATION_BATCH, max(1, EVALUATION_TOKENS // self.spec.block_length))
        return complete_loader(blocks, blocks.num, limit, workers, batch_size)

    @property
    def task(self) -> TextTask | None:
        """A labelled task of the same corpus, where it has one."""
        return None
