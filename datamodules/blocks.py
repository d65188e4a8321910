"""Blocks of a fixed number of tokens, read from a token stream.

Shapes: B blocks, L tokens a block.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.token_cache import Stream


class Blocks(Dataset):
    """One split as `num` blocks; a list of (epoch, block number) -> one batch; without state.

    Blocks follow each other through the stream without gaps; the incomplete last one is left out.

    Args:
        stream: of one split.
        block_length: L.
        start: the token that every block begins with, which leaves L - 1 for the stream; None leaves it all L.
        isolate_documents: whether batches say which tokens belong to the same document.
    """

    labels = None

    def __init__(self, stream: Stream, block_length: int, start: int | None, isolate_documents: bool):
        self.stream, self.start, self.isolate_documents = stream, start, isolate_documents
        self.stride = block_length - (start is not None)
        self.num = stream.num_tokens // self.stride

    def __len__(self) -> int:
        return self.num

    def __getitems__(self, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
        """{"ids": (B, L) int64, "epoch", "index": (B,), "corrupt": 0} and, to keep documents apart, "document": (B, L).

        "document" numbers the documents within a block from 0; the start token belongs to the first.
        """
        epoch, index = np.array(pairs, np.int64).reshape(-1, 2).T
        positions = index[:, None] * self.stride + np.arange(self.stride)
        ids = self.stream.tokens[positions].astype(np.int64)
        if self.start is not None:
            ids = np.insert(ids, 0, self.start, axis=1)
        batch = {"ids": ids, "epoch": epoch.copy(), "index": index.copy()}
        if self.isolate_documents:
            document = np.searchsorted(self.stream.document_ends, positions, side="right")
            document -= document[:, :1]
            batch["document"] = document if self.start is None else np.insert(document, 0, 0, axis=1)
        return {key: torch.from_numpy(value) for key, value in batch.items()} | {"corrupt": torch.tensor(0)}
