"""What an objective must know of a vocabulary, as tensors on its device."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from datamodules.spec import DataSpec
from errors import BadInput


class TextTables(nn.Module):
    """Lookup tables by token id; no parameters, nothing in checkpoints.

    Attributes:
        ordinary_V: bool, pieces of text: what may be noise.
        ordinary_ids: their ids: what may be drawn instead of a token.
        begins_word_V: bool.
        sentinel_ids: descending.
    """

    def __init__(self, spec: DataSpec):
        super().__init__()
        vocabulary = spec.vocabulary
        self.pad, self.mask, self.start, self.end = vocabulary.pad, vocabulary.mask, vocabulary.start, vocabulary.end
        ordinary_V = torch.from_numpy(vocabulary.ordinary)
        for name, table in {
            "ordinary_V": ordinary_V,
            "ordinary_ids": ordinary_V.nonzero().flatten(),
            "begins_word_V": torch.from_numpy(vocabulary.begins_word),
            "sentinel_ids": torch.tensor(vocabulary.sentinels, dtype=torch.long),
        }.items():
            self.register_buffer(name, table, persistent=False)
        self.tokenizer = vocabulary.tokenizer

    def need_mask(self, objective: str) -> None:
        """Raise BadInput when the tokenizer has no mask token."""
        if self.mask is None:
            raise BadInput(
                f"objective={objective} needs a tokenizer with a mask token, which this one has not; "
                "fits: one trained here (datamodule.tokenizer.path=null) or BERT's"
            )

    def ordinary(self, ids_BL: Tensor) -> Tensor:
        """(B, L) bool: the tokens that may be noise."""
        return self.ordinary_V[ids_BL]

    def text(self, ids: Tensor) -> str:
        """For a person to read; markdown shows it as it is."""
        return self.tokenizer.decode(ids[ids < len(self.tokenizer)].tolist()).replace("`", "'")


def in_a_table(tokenizer: PreTrainedTokenizerFast, ids: Tensor) -> str:
    """For a person; without special tokens, and without what markdown's tables would take for their own."""
    text = tokenizer.decode(ids.tolist(), skip_special_tokens=True)
    return text.replace("|", "/").replace("`", "'").replace("\n", " ")
