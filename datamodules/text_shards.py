"""Running text in tar shards, WebDataset's format; a document is a sample."""

from collections import Counter
from collections.abc import Iterator, Sequence

from datamodules.corpus import Document
from datamodules.shard_sample import Fields
from datamodules.shards import open_splits
from datamodules.text import TextData
from datamodules.vocabulary import Vocabulary
from ranges import Count, CountOr0, OpenShare, Seed


class TextShards(TextData):
    """Text in shards.

    Args:
        shards, val_shards, test_shards: patterns, or lists of them, as `shard_files` takes them.
        text: members or fields of JSON members ("json.text") that hold a document.
    Other arguments as in `TextData`; `val_fraction` counts where there are no `val_shards`.
    """

    def __init__(
        self,
        shards: str | list[str],
        tokenizer: dict | Vocabulary,
        val_shards: str | list[str] | None = None,
        test_shards: str | list[str] | None = None,
        text: str | Sequence[str] = ("txt", "json.text"),
        block_length: Count = 128,
        batch_size: Count = 64,
        start_token: bool = True,
        isolate_documents: bool = False,
        num_sentinels: CountOr0 = 0,
        val_fraction: OpenShare = 0.05,
        split_seed: Seed = 0,
        cache: str | None = None,
    ):
        patterns = {"shards": shards, "val_shards": val_shards, "test_shards": test_shards}
        opened = open_splits(patterns, Fields.of(text=text), "text_shards", cache)

        def read(problems: Counter) -> Iterator[Document]:
            for split, part in opened.items():
                given = split if split != "train" or "val" in opened else None
                for index in range(part.num):
                    yield Document(["\n".join(part.texts(index))], given)

        super().__init__(
            "text_shards",
            ["text_shards", {split: part.content for split, part in opened.items()}],
            read,
            tokenizer,
            block_length,
            batch_size,
            start_token,
            isolate_documents,
            num_sentinels,
            val_fraction,
            split_seed,
            cache,
        )
