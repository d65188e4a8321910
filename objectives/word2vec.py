"""What both models of Word2Vec share (Mikolov et al. 2013b, "Distributed Representations of Words and Phrases", section 2;
constants and details that the paper leaves open are those of the authors' code).

Their code draws five noise tokens for every pair of tokens. Here the tokens of a row share a larger sample: the mean over the
noise that equation 4 asks for is estimated no worse, and everything is a product of matrices instead of single rows.

Shapes: B rows, L tokens a row, M noise tokens a row, T targets of a token, D width, V vocabulary.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.spec import DataSpec
from errors import BadInput
from models.word_vectors import WordVectors
from objectives.draw import Draw
from objectives.objective import Batch
from objectives.text_tables import TextTables

POWER = 0.75  # of a token's count, in proportion to which it is drawn as noise
FINENESS = 2**40  # of the probabilities of noise: their error is below 1e-12


class Word2Vec(nn.Module):
    """Which tokens predict which, what they are told apart from, and how well.

    Args:
        spec: the opened data, running text.
        width: D.
        window: the farthest neighbour.
        negatives: how many noise tokens each target weighs against.
        noise_tokens: M.
        subsample: t: a token with share f of the text stays with probability (sqrt(f / t) + 1) t / f; 0 keeps all.

    Raises:
        BadInput: the data are no running text, or a setting is out of its range.
    """

    def __init__(self, spec: DataSpec, width: int, window: int, negatives: int, noise_tokens: int, subsample: float):
        super().__init__()
        if spec.token_counts is None:
            raise BadInput(f"word vectors are learned on running text, but '{spec.name}' is a labelled task")
        for name, value in {"window": window, "negatives": negatives, "noise_tokens": noise_tokens}.items():
            if value < 1:
                raise BadInput(f"objective.{name} must be at least 1, not {value}")
        if subsample < 0:
            raise BadInput(f"objective.subsample must be 0 (every token stays) or more, not {subsample}")
        self.window, self.negatives, self.noise_tokens = window, negatives, noise_tokens
        self.end = spec.vocabulary.end
        count_V = np.zeros(spec.vocabulary.size)
        count_V[: len(spec.token_counts)] = spec.token_counts
        count_V *= spec.vocabulary.ordinary  # special tokens are no words: they neither stay nor are drawn
        if not count_V.any():
            raise BadInput(f"the training text of '{spec.name}' holds no word that its tokenizer knows")
        upto_V = (count_V**POWER).cumsum()
        for name, table in {
            "stay_V": torch.from_numpy(staying(count_V, subsample)).float(),
            "upto_V": torch.from_numpy((upto_V / upto_V[-1] * FINENESS).round().astype(np.int64)),
        }.items():
            self.register_buffer(name, table, persistent=False)
        self.output = nn.Embedding(spec.vocabulary.size, width)
        nn.init.zeros_(self.output.weight)  # the authors' code

    def windows(self, batch: Batch, draw: Draw) -> Tensor:
        """(B, L, L) bool: which tokens stand in the window of which, after subsampling."""
        ids_BL = batch["ids"]
        kept_BL = draw.uniform("kept", ids_BL.shape[1]) < self.stay_V[ids_BL]
        document_BL = batch.get("document")
        if document_BL is None and self.end is not None:
            document_BL = (ids_BL == self.end).cumsum(1)  # every document ends with one
        return windows(draw, kept_BL, self.window, document_BL)

    def noise(self, draw: Draw) -> Tensor:
        """(B, M) ids."""
        return torch.searchsorted(self.upto_V, draw.integers("noise", FINENESS, self.noise_tokens), right=True)

    def against(self, vector_BLD: Tensor, noise_BM: Tensor, weight_BLM: Tensor, target_BLT: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of nats that noise costs, the highest score for each vector of noise that is not the target (B, L, T)).

        Args:
            weight_BLM: for how many targets a vector is told apart from a noise token; noise that is the target is skipped.
            target_BLT: ids, or what broadcasts to them.
        """
        score_BLM = torch.bmm(vector_BLD, self.output(noise_BM).mT).float()
        nats = (F.softplus(score_BLM) * weight_BLM).sum() * (self.negatives / self.noise_tokens)
        return nats, highest_other(score_BLM.detach(), noise_BM, target_BLT)


def highest_other(score_BLM: Tensor, noise_BM: Tensor, target_BLT: Tensor) -> Tensor:
    """(B, L, T): for each vector and target the highest score of noise that is another token, -inf where there is none.

    It is that of the best token or, where the target is that token itself, of the second best.
    """
    best_BL1, place_BL1 = score_BLM.max(-1, keepdim=True)
    token_BL1 = noise_BM[:, None, :].expand_as(score_BLM).gather(-1, place_BL1)
    second_BL1 = score_BLM.masked_fill(noise_BM[:, None, :] == token_BL1, float("-inf")).amax(-1, keepdim=True)
    return torch.where(target_BLT == token_BL1, second_BL1, best_BL1)


def staying(count_V: np.ndarray, subsample: float) -> np.ndarray:
    """(V,) the probability with which each token stays, 0 for those that do not occur; above 1 is always."""
    share_V = count_V / count_V.sum()
    occurs_V = np.where(share_V > 0, share_V, 1.0)
    stay_V = (np.sqrt(occurs_V / subsample) + 1) * subsample / occurs_V if subsample else np.ones_like(share_V)
    return np.where(share_V > 0, stay_V, 0.0)


def windows(draw: Draw, kept_BL: Tensor, window: int, document_BL: Tensor | None = None) -> Tensor:
    """(B, L, L) bool: each kept token reaches 1 to `window` kept tokens far, uniformly drawn, the same on both sides.

    Windows reach over the gaps that subsampling leaves, but not into another document.
    """
    rank_BL = kept_BL.cumsum(1, dtype=torch.int32)
    distance_BLL = (rank_BL[:, :, None] - rank_BL[:, None, :]).abs()
    reach_BL1 = 1 + draw.integers("reach", window, kept_BL.shape[1])[..., None]
    inside_BLL = (distance_BLL > 0) & (distance_BLL <= reach_BL1) & kept_BL[:, :, None] & kept_BL[:, None, :]
    if document_BL is not None:
        inside_BLL &= document_BL[:, :, None] == document_BL[:, None, :]
    return inside_BLL


@torch.no_grad()
def neighbours(encoder: WordVectors, tables: TextTables, batch: Batch, num_words: int = 12, num_near: int = 6) -> str:
    """Markdown: whole words of the batch, spread over its vocabulary, and the tokens whose vectors point most alike."""
    found = batch["ids"].unique()
    found = found[(tables.ordinary_V & tables.begins_word_V)[found]]
    chosen = found[:: max(1, len(found) // num_words)][:num_words]
    unit_VD = F.normalize(encoder.net.weight.float(), dim=1)
    similarity_WV = (unit_VD[chosen] @ unit_VD.T).masked_fill(~tables.ordinary_V, -2.0)
    near_WK = similarity_WV.scatter(1, chosen[:, None], -2.0).topk(num_near, dim=1).indices
    names = tables.tokenizer.convert_ids_to_tokens
    rows = zip(names(chosen.tolist()), near_WK.tolist(), strict=True)
    return "\n\n".join(f"    {word}: {', '.join(names(near))}" for word, near in rows)
