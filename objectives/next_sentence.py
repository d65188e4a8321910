"""BERT's second task (Devlin et al. 2019, section 3.1): does text B follow text A, or is it from another document?

Rows:   [CLS] A [SEP] B [SEP] of a fixed length. A is running text of one document, B what follows it there, or in half of
        the rows as many tokens from a random place of another document. The token stream knows no sentences: A ends, and a
        foreign B begins, between any two tokens, so the way a text begins never gives the answer away.
Target: "follows" or "does not", from the vector of [CLS].

A document shorter than a row fills less of it, as in the original.

Shapes: B rows, L tokens a row, D width, M documents of at least two tokens.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from datamodules.blocks import Blocks
from datamodules.vocabulary import Vocabulary
from errors import BadInput
from objectives.draw import Draw

MANY = 2**62  # the bias of a modulus below it is negligible


class SentencePairs(Dataset):
    """Rows of two texts, as many as there are blocks; a list of (epoch, number) -> one batch; without state.

    Row i begins at a random place of the i-th equal share of the stream, so that an epoch covers the corpus evenly.

    Args:
        blocks: of running text.
        seed: of the run.
        vocabulary: with a start and an end token.
        length: L.

    Raises:
        BadInput: there are not two documents, they are to be kept apart, or the vocabulary lacks the tokens.
    """

    def __init__(self, blocks: Blocks, seed: int, vocabulary: Vocabulary, length: int):
        if blocks.isolate_documents:
            raise BadInput("objective.next_sentence compares documents, which datamodule.isolate_documents=true keeps apart")
        if vocabulary.start is None or vocabulary.end is None:
            raise BadInput("objective.next_sentence=true needs a tokenizer with a start and an end token, such as BERT's")
        self.stream, self.num, self.seed, self.length = blocks.stream, blocks.num, seed, length
        self.start, self.end, self.pad = vocabulary.start, vocabulary.end, vocabulary.pad
        ends = np.asarray(self.stream.document_ends)
        begins = np.concatenate(([0], ends[:-1]))
        sizes = ends - begins - 1  # without the end token
        self.begins_M, self.sizes_M = (torch.from_numpy(found[sizes >= 2]) for found in (begins, sizes))
        self.upto_M = self.sizes_M.cumsum(0)
        if len(self.sizes_M) < 2:
            raise BadInput(
                f"objective.next_sentence=true needs text of two documents or more; the split '{self.stream.split}' has "
                f"{len(self.sizes_M)} (in text files datamodule.document=paragraph or line makes more of one file)"
            )

    def __len__(self) -> int:
        return self.num

    def __getitems__(self, pairs: list[tuple[int, int]]) -> dict[str, Tensor]:
        """{"ids", "segment": (B, L) int64, "present": (B, L) bool, "is_next": (B,) int64, "epoch", "index", "corrupt": 0}.

        "segment" is 1 in B and its end token.
        """
        epoch_B, index_B = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
        draw = Draw(self.seed, epoch_B, index_B)
        first_B, num_first_B, second_B, num_second_B, is_next_B = self.places(draw)
        place_L, begin_B1 = torch.arange(self.length), num_first_B[:, None] + 2  # of B in the row
        last_B1 = begin_B1 + num_second_B[:, None]
        source_BL = torch.where(place_L < begin_B1, first_B[:, None] + place_L - 1, second_B[:, None] + place_L - begin_B1)
        source_BL = source_BL.clamp(0, self.stream.num_tokens - 1)
        ids_BL = torch.from_numpy(self.stream.tokens[source_BL.numpy()].astype(np.int64))
        ids_BL[:, 0] = self.start
        ids_BL[(place_L == begin_B1 - 1) | (place_L == last_B1)] = self.end
        present_BL = place_L <= last_B1
        return {
            "ids": ids_BL.masked_fill(~present_BL, self.pad),
            "present": present_BL,
            "segment": (present_BL & (place_L >= begin_B1)).long(),
            "is_next": is_next_B.long(),
            "epoch": epoch_B,
            "index": index_B,
            "corrupt": torch.tensor(0),
        }

    def places(self, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Where A begins in the stream and its size, the same of B, and whether B follows A: each (B,)."""
        room, total = self.length - 3, int(self.upto_M[-1])
        lowest_B, highest_B = (total * number // self.num for number in (draw.index, draw.index + 1))
        place_B = lowest_B + self._below(draw, "place", highest_B - lowest_B)
        document_B, first_B, num_B = self._window(place_B, torch.full_like(place_B, room))
        num_first_B = 1 + self._below(draw, "cut", num_B - 1)
        num_second_B = num_B - num_first_B

        size_B, upto_B = self.sizes_M[document_B], self.upto_M[document_B]
        elsewhere_B = self._below(draw, "elsewhere", total - size_B)
        elsewhere_B += size_B * (elsewhere_B >= upto_B - size_B)  # steps over A's document
        _, foreign_B, num_foreign_B = self._window(elsewhere_B, num_second_B)
        is_next_B = draw.integers("is_next", 2, 1)[:, 0] == 1
        second_B = torch.where(is_next_B, first_B + num_first_B, foreign_B)
        return first_B, num_first_B, second_B, torch.where(is_next_B, num_second_B, num_foreign_B), is_next_B

    def _window(self, place_B: Tensor, most_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(document, place in the stream, size) of at most so many tokens of one document from a token of it on.

        A window that would end behind the document is moved to its end.
        """
        document_B = torch.searchsorted(self.upto_M, place_B, right=True)
        size_B = self.sizes_M[document_B]
        num_B = torch.minimum(size_B, most_B)
        offset_B = torch.minimum(place_B - (self.upto_M[document_B] - size_B), size_B - num_B)
        return document_B, self.begins_M[document_B] + offset_B, num_B

    @staticmethod
    def _below(draw: Draw, name: str, bound_B: Tensor) -> Tensor:
        """(B,) uniform in [0, bound), 0 where that is empty."""
        return draw.integers(name, MANY, 1)[:, 0] % bound_B.clamp(min=1)


class NextSentenceHead(nn.Module):
    """BERT's pooler and classifier: [CLS] -> dense, tanh -> does not follow, follows."""

    def __init__(self, width: int):
        super().__init__()
        self.pooler, self.classifier = nn.Linear(width, width), nn.Linear(width, 2)
        for layer in (self.pooler, self.classifier):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def logits(self, hidden_BLD: Tensor) -> Tensor:
        """(B, 2) float32."""
        return self.classifier(self.pooler(hidden_BLD[:, 0]).tanh()).float()

    def forward(self, hidden_BLD: Tensor, is_next_B: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of nats, number right)."""
        logits_B2 = self.logits(hidden_BLD)
        return F.cross_entropy(logits_B2, is_next_B, reduction="sum"), (logits_B2.argmax(1) == is_next_B).sum()
