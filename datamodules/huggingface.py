"""Text through the library `datasets`: a hub id, or a local folder that it wrote or can read."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.cache import cache_folder
from datamodules.corpus import Document
from datamodules.text import TextData
from datamodules.text_sources import WITHOUT_TEXT
from errors import BadInput, nearest
from ranges import Count, CountOr0, OpenShare, Seed


class HuggingFace(TextData):
    """One split of a data set of Hugging Face; each record is a document.

    Args:
        path: a hub id, a folder of `save_to_disk`, or a folder of .jsonl, .parquet or .txt files.
        subset: the configuration, where there are several.
        split: what pre-training and its validation take.
        column: which one holds the text.
    Other arguments as in `TextData`.
    """

    def __init__(
        self,
        path: str,
        tokenizer: dict,
        subset: str | None = None,
        split: str = "train",
        column: str = "text",
        block_length: Count = 128,
        batch_size: Count = 64,
        start_token: bool = True,
        isolate_documents: bool = False,
        num_sentinels: CountOr0 = 0,
        val_fraction: OpenShare = 0.05,
        split_seed: Seed = 0,
        cache: str | None = None,
    ):
        records = open_records(path, subset, split, cache)
        if column not in records.column_names:
            raise BadInput(f"'{path}' has no column '{column}'; {nearest(column, records.column_names)}")

        def read(problems: Counter) -> Iterator[Document]:
            for rows in records.select_columns([column]).iter(batch_size=256):
                for text in rows[column]:
                    if isinstance(text, str):
                        yield Document([text])
                    else:
                        problems[WITHOUT_TEXT] += 1

        super().__init__(
            "huggingface",
            ["huggingface", path, subset, split, column, records._fingerprint, len(records)],
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


def open_records(path: str, subset: str | None, split: str, cache: str | None = None) -> Any:
    """A `datasets.Dataset`, memory-mapped.

    Raises:
        BadInput: the library is not installed, or what is asked for is not there and cannot be fetched.
    """
    try:
        import datasets
    except ImportError as error:
        raise BadInput('Hugging Face data need the package datasets: pip install "headstart[text]"') from error
    place = Path(path).expanduser()
    try:
        if (place / "dataset_dict.json").exists():
            found = datasets.load_from_disk(str(place))
            if split not in found:
                raise BadInput(f"'{path}' has no split '{split}'; {nearest(split, found)}")
            return found[split]
        if (place / "state.json").exists():
            return datasets.load_from_disk(str(place))
        folder = str(cache_folder(cache, "datasets")) if cache else None
        return datasets.load_dataset(str(place) if place.exists() else path, subset, split=split, cache_dir=folder)
    except BadInput:
        raise
    except Exception as error:  # the library, the hub and the network raise many kinds: all mean that it did not come
        reason = " ".join(str(error).split())[:160]
        raise BadInput(
            f"'{path}' (subset {subset}, split {split}) is not there: {reason}; a local copy needs no network"
        ) from error
