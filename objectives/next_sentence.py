"""BERT's second task (Devlin et al. 2019, section 3.1): does text B follow text A, or is it from another document?

Rows:   [CLS] A [SEP] B [SEP] of a fixed length. A is running text of one document, B what follows it there, or in half of
        the rows the B of another document's pair that looks alike: as long, and at its document's end if A's own B is. The
        token stream knows no sentences: A and B meet between any two tokens.
Target: "follows" or "does not", from the vector of [CLS].

So lengths, beginnings and ends have one law whether B follows or not, and only what the texts say gives the answer. A document
shorter than a row fills less of it, as in the original. Where no other document has such a B (of a few short ones and a long
one, say), the nearest to it is taken: an end of that length, else the longest other document without its first token.

Shapes: B rows, L tokens a row, D width, M documents of at least two tokens; in `ForeignTexts` from the shortest on.
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
WEIGHT = 2**20  # of a document: fractions of it are whole numbers


class SentencePairs(Dataset):
    """Rows of two texts, as many as there are blocks; a list of (epoch, number) -> one batch; without state.

    Row i begins at a random place of the i-th equal share of the stream, so that an epoch covers the corpus evenly.

    Args:
        blocks: of running text.
        seed: of the run.
        vocabulary: with a start and an end token.
        length: L.
        static_copies: None draws anew in every epoch; a number repeats the pairs after so many epochs.

    Raises:
        BadInput: there are not two documents, they are to be kept apart, or the vocabulary lacks the tokens.
    """

    def __init__(self, blocks: Blocks, seed: int, vocabulary: Vocabulary, length: int, static_copies: int | None = None):
        if blocks.isolate_documents:
            raise BadInput("objective.next_sentence compares documents, which datamodule.isolate_documents=true keeps apart")
        if vocabulary.start is None or vocabulary.end is None:
            raise BadInput("objective.next_sentence=true needs a tokenizer with a start and an end token, such as BERT's")
        self.stream, self.num, self.seed, self.length = blocks.stream, blocks.num, seed, length
        self.static_copies = static_copies
        self.start, self.end, self.pad = vocabulary.start, vocabulary.end, vocabulary.pad
        ends = np.asarray(self.stream.document_ends)
        begins = np.concatenate(([0], ends[:-1]))
        sizes = ends - begins - 1  # without the end token
        self.begins_M, self.sizes_M = (torch.from_numpy(found[sizes >= 2]) for found in (begins, sizes))
        self.upto_M = self.sizes_M.cumsum(0)
        self.foreign = ForeignTexts(self.begins_M, self.sizes_M, length - 3)
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
        if self.static_copies is not None:
            draw = draw.repeating(self.static_copies)
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
        place_B = lowest_B + below(draw, "place", highest_B - lowest_B)
        document_B = torch.searchsorted(self.upto_M, place_B, right=True)
        size_B = self.sizes_M[document_B]
        num_B = size_B.clamp(max=room)
        # a window that would end behind the document is moved to its end
        offset_B = torch.minimum(place_B - (self.upto_M[document_B] - size_B), size_B - num_B)
        num_first_B = 1 + below(draw, "cut", num_B - 1)
        num_second_B = num_B - num_first_B
        first_B = self.begins_M[document_B] + offset_B
        foreign_B, num_foreign_B = self.foreign.places(draw, document_B, num_second_B, offset_B == size_B - num_B)
        is_next_B = draw.integers("is_next", 2, 1)[:, 0] == 1
        second_B = torch.where(is_next_B, first_B + num_first_B, foreign_B)
        return first_B, num_first_B, second_B, torch.where(is_next_B, num_second_B, num_foreign_B), is_next_B


class ForeignTexts:
    """The Bs of all documents' pairs, to be drawn by their form as often as `SentencePairs` makes them.

    It makes a pair at n places of n tokens, and cuts the m = min(n, room) tokens of it at one of m - 1. So a B of a given size
    ends its document with a weight of m / (m - 1), whatever that size below n; and if n > room, each of the n - room windows
    that end earlier has one that does not, all of one weight.

    Args:
        begins_M, sizes_M: where documents begin in the stream, and how many tokens they have.
        room: for both texts of a row.
    """

    def __init__(self, begins_M: Tensor, sizes_M: Tensor, room: int):
        self.room, self.rank_M = room, sizes_M.argsort(stable=True).argsort()
        self.sizes_M, order = sizes_M.sort(stable=True)
        self.begins_M = begins_M[order]
        whole_M = self.sizes_M.clamp(max=room)
        ends_M, inner_M = WEIGHT * whole_M // (whole_M - 1), (self.sizes_M - room).clamp(min=0)
        self.upto_ends_M, self.upto_inner_M = (F.pad(weight_M.cumsum(0), (1, 0)) for weight_M in (ends_M, inner_M))

    def places(self, draw: Draw, own_B: Tensor, num_B: Tensor, ends_B: Tensor) -> tuple[Tensor, Tensor]:
        """(where they begin in the stream, their sizes) (B,) of texts of other documents.

        Args:
            own_B: documents that they must not be of.
            num_B: tokens; at most as many as their own document has, less one.
            ends_B: bool, whether they end their document.
        """
        own_B, last = self.rank_M[own_B], len(self.sizes_M) - 1
        longest_B = torch.where(own_B == last, last - 1, last)
        inner_B, inside_B, any_inner_B = self._other(draw, self.upto_inner_M, own_B, torch.zeros_like(own_B))
        enough_B = torch.searchsorted(self.sizes_M, num_B, right=True)  # the first document with more tokens
        at_end_B, _, any_end_B = self._other(draw, self.upto_ends_M, own_B, enough_B)
        inner_B = torch.where(ends_B | ~any_inner_B, -1, inner_B)
        document_B = torch.where(inner_B >= 0, inner_B, torch.where(any_end_B, at_end_B, longest_B))
        size_B = self.sizes_M[document_B]
        num_B = torch.minimum(num_B, size_B - 1)
        offset_B = torch.where(inner_B >= 0, inside_B + self.room, size_B) - num_B
        return self.begins_M[document_B] + offset_B, num_B

    @staticmethod
    def _other(draw: Draw, upto_M: Tensor, own_B: Tensor, lowest_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(document by weight among those from `lowest` on but the own one, place within its weight, whether there is one)."""
        before_B, own_weight_B = upto_M[lowest_B], upto_M[own_B + 1] - upto_M[own_B]
        total_B = upto_M[-1] - before_B - own_weight_B
        point_B = before_B + below(draw, "elsewhere", total_B)
        point_B += own_weight_B * (point_B >= upto_M[own_B])  # steps over A's document
        document_B = torch.searchsorted(upto_M, point_B, right=True).clamp(max=len(upto_M) - 1) - 1
        return document_B, point_B - upto_M[document_B], total_B > 0


def below(draw: Draw, name: str, bound_B: Tensor) -> Tensor:
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
