"""A corpus in files of one's own: .txt, .jsonl and .parquet, each also as .gz, or in a .zip."""

import os
from collections import Counter
from collections.abc import Iterator

from datamodules.corpus import Document
from datamodules.text import TextData
from datamodules.text_sources import documents_of, files_of, sources_of
from errors import BadInput, nearest
from ranges import Count, CountOr0, OpenShare, Seed

DOCUMENTS = ("file", "line", "paragraph")


class TextFiles(TextData):
    """Text in files.

    Args:
        files: a glob or several.
        document: what a document is in plain text: a "file", a "line" or a "paragraph" (blank lines divide them).
        column: which one holds the text in .jsonl and .parquet; there a record is a document.
    Other arguments as in `TextData`.
    """

    def __init__(
        self,
        files: str | list[str],
        tokenizer: dict,
        document: str = "file",
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
        if document not in DOCUMENTS:
            raise BadInput(f"datamodule.document='{document}' is not a kind of document; {nearest(document, DOCUMENTS)}")
        paths = files_of(files)
        sources = [source for path in paths for source in sources_of(path)]

        def read(problems: Counter) -> Iterator[Document]:
            for source in sources:
                yield from documents_of(source, document, column, problems)

        stats = [path.stat() for path in paths]
        if not any(stat.st_size for stat in stats):
            raise BadInput(f"datamodule.files={files} holds no text: its files, {len(paths)} in number, are empty")
        identity = [[os.path.realpath(path), stat.st_size, stat.st_mtime_ns] for path, stat in zip(paths, stats, strict=True)]
        super().__init__(
            "text_files",
            ["text_files", identity, document, column],
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
