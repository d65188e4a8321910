"""Image-text retrieval: for each picture the nearest captions, and for each caption the nearest pictures.

Any caption of a picture is right, and so is the same text written for another picture: sets of captions repeat themselves.

Shapes: N pictures, M captions of theirs, U distinct texts among these, Q queries of a chunk, E embedding width.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from datamodules.contract import Data
from errors import BadInput, nearest
from models.pair import Pair
from transfer.features import embed_pictures, embed_texts
from transfer.protocol import Bench
from transfer.ranking import best_ranks, chance_of_median_rank, chance_of_recall

RANKS = (1, 5, 10)
CAPTIONS = ("all", "first")
CHUNK = 256  # queries at a time


@dataclass(frozen=True)
class Retrieval:
    """Both ways on the test split.

    Attributes:
        captions: "all" takes every caption, as candidate and as query; "first" only the first of each picture, which makes
            collections with different numbers of captions comparable.
    """

    captions: str = "all"
    takes: ClassVar[str] = "pair"
    judges: ClassVar[str] = "captions"
    metric: ClassVar[str] = "recall_at_1"

    def __post_init__(self) -> None:
        if self.captions not in CAPTIONS:
            raise BadInput(f"there is no transfer.captions '{self.captions}'; {nearest(self.captions, CAPTIONS)}")

    def __call__(self, pair: Pair, data: Data, bench: Bench) -> dict[str, float | str]:
        image_NE, _, index_N = embed_pictures(pair, data, "test", bench.trainer["workers"], bench.precision)
        known = data.captions("test")
        captions = [known[i][: 1 if self.captions == "first" else None] for i in index_N.tolist()]
        text_of = {text: number for number, text in enumerate(dict.fromkeys(text for own in captions for text in own))}
        text_UE = embed_texts(pair, list(text_of), bench.precision)  # each once: the same text is the same vector
        return retrieve(image_NE, text_UE, [[text_of[text] for text in own] for own in captions])


def retrieve(image_NE: Tensor, text_UE: Tensor, texts_of: list[list[int]]) -> dict[str, float]:
    """Recall at 1, 5 and 10 and median rank, both ways, with those of a random order.

    Memory grows with a chunk of queries times the candidates, not with queries times candidates.

    Args:
        image_NE, text_UE: unit vectors.
        texts_of: for each picture the numbers of its captions among the distinct texts.

    Returns:
        `image_to_text_...` and `text_to_image_...` of `recall_at_1`, `recall_at_5`, `recall_at_10` (shares) and
        `median_rank` (from 1); `recall_at_1`, the mean of both ways; and `chance_...` of all these.
    """
    text_M = torch.tensor([text for own in texts_of for text in own])
    picture_M = np.repeat(np.arange(len(texts_of)), [len(own) for own in texts_of])
    belongs_NU = csr_array((np.ones(len(text_M), bool), (picture_M, text_M.numpy())), (len(image_NE), len(text_UE)))
    belongs_UN = belongs_NU.T.tocsr()

    to_text, to_image = [], []
    for chunk in torch.arange(len(image_NE)).split(CHUNK):
        right_QU = torch.from_numpy(belongs_NU[chunk.numpy()].toarray())
        to_text.append(_judged((image_NE[chunk] @ text_UE.T)[:, text_M], right_QU[:, text_M]))
    for chunk in text_M.split(CHUNK):
        right_QN = torch.from_numpy(belongs_UN[chunk.numpy()].toarray())
        to_image.append(_judged(text_UE[chunk] @ image_NE.T, right_QN))

    found: dict[str, float] = {}
    for way, judged, num_candidates in (
        ("image_to_text", to_text, len(text_M)),
        ("text_to_image", to_image, len(image_NE)),
    ):
        ranks, num_positives = (torch.cat(parts).numpy() for parts in zip(*judged, strict=True))
        for k in RANKS:
            found[f"{way}_recall_at_{k}"] = float((ranks <= k).mean())
            found[f"chance_{way}_recall_at_{k}"] = chance_of_recall(num_positives, num_candidates, k)
        found[f"{way}_median_rank"] = float(np.median(ranks))
        found[f"chance_{way}_median_rank"] = chance_of_median_rank(num_positives, num_candidates)
    both = {
        f"{kind}recall_at_1": (found[f"{kind}image_to_text_recall_at_1"] + found[f"{kind}text_to_image_recall_at_1"]) / 2
        for kind in ("", "chance_")
    }
    return both | found


def _judged(similarity_QC: Tensor, right_QC: Tensor) -> tuple[Tensor, Tensor]:
    """(rank of the best right candidate (Q,), how many are right (Q,))."""
    return best_ranks(similarity_QC, right_QC), right_QC.sum(1)
