"""What both models of Word2Vec share (Mikolov et al. 2013b, "Distributed Representations of Words and Phrases", section 2;
constants and details that the paper leaves open are those of the authors' code).

Shapes: B rows, L tokens a row, W = 2 x window neighbours of a token, N predictions, K noise tokens, C = 1 + K candidates,
D width, V vocabulary.
"""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Windows:
    """Every kept token with the kept tokens around it.

    Attributes:
        place_BL: positions in the row: the kept tokens in their order, then the others.
        neighbour_BLW: positions of what stands around each.
        used_BLW: which of them are there and within reach.
    """

    place_BL: Tensor
    neighbour_BLW: Tensor
    used_BLW: Tensor


class Word2Vec(nn.Module):
    """Which tokens predict which, what they are told apart from, and how well.

    Args:
        spec: the opened data, running text.
        width: D.
        window: the farthest neighbour.
        negatives: K.
        subsample: t: a token with share f of the text stays with probability (sqrt(f / t) + 1) t / f; 0 keeps all.

    Raises:
        BadInput: the data are no running text, or a setting is out of its range.
    """

    def __init__(self, spec: DataSpec, width: int, window: int, negatives: int, subsample: float):
        super().__init__()
        if spec.token_counts is None:
            raise BadInput(f"word vectors are learned on running text, but '{spec.name}' is a labelled task")
        if window < 1 or negatives < 1:
            raise BadInput(f"objective.window and objective.negatives must be at least 1, not {window} and {negatives}")
        if subsample < 0:
            raise BadInput(f"objective.subsample must be 0 (every token stays) or more, not {subsample}")
        self.window, self.negatives = window, negatives
        count_V = np.zeros(spec.vocabulary.size)
        count_V[: len(spec.token_counts)] = spec.token_counts
        count_V *= spec.vocabulary.ordinary  # special tokens are no words: they neither stay nor are drawn
        upto_V = (count_V**POWER).cumsum()
        for name, table in {
            "stay_V": torch.from_numpy(staying(count_V, subsample)).float(),
            "upto_V": torch.from_numpy((upto_V / upto_V[-1] * FINENESS).round().astype(np.int64)),
        }.items():
            self.register_buffer(name, table, persistent=False)
        self.output = nn.Embedding(spec.vocabulary.size, width)
        nn.init.zeros_(self.output.weight)  # the authors' code

    def windows(self, batch: Batch, draw: Draw) -> Windows:
        """Around the tokens that subsampling leaves; windows reach over the gaps."""
        kept_BL = draw.uniform("kept", batch["ids"].shape[1]) < self.stay_V[batch["ids"]]
        return windows(draw, kept_BL, self.window, batch.get("document"))

    def noise(self, draw: Draw, *shape: int) -> Tensor:
        """(B, *shape, K) ids."""
        return torch.searchsorted(self.upto_V, draw.integers("noise", FINENESS, *shape, self.negatives), right=True)

    def forward(self, vector_ND: Tensor, target_N: Tensor, noise_NK: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of nats, number of targets that score above all their noise): equation 4.

        -log sigmoid(output of the target . vector) - sum over the noise of log sigmoid(-output of the noise . vector); noise
        that is the target is skipped.
        """
        candidate_NC = torch.cat([target_N[:, None], noise_NK], dim=1)
        score_NC = torch.bmm(self.output(candidate_NC), vector_ND[:, :, None])[..., 0].float()
        real_NK = noise_NK != target_N[:, None]
        nats = F.softplus(-score_NC[:, 0]).sum() + (F.softplus(score_NC[:, 1:]) * real_NK).sum()
        best_N = score_NC[:, 1:].detach().masked_fill(~real_NK, -torch.inf).amax(1)
        return nats, (score_NC[:, 0] > best_N).sum()


def staying(count_V: np.ndarray, subsample: float) -> np.ndarray:
    """(V,) the probability with which each token stays, 0 for those that do not occur; above 1 is always."""
    share_V = count_V / count_V.sum()
    occurs_V = np.where(share_V > 0, share_V, 1.0)
    stay_V = (np.sqrt(occurs_V / subsample) + 1) * subsample / occurs_V if subsample else np.ones_like(share_V)
    return np.where(share_V > 0, stay_V, 0.0)


def windows(draw: Draw, kept_BL: Tensor, window: int, document_BL: Tensor | None = None) -> Windows:
    """Each token reaches 1 to `window` kept tokens far on both sides, uniformly drawn; not into another document."""
    length = kept_BL.shape[1]
    place_BL = (~kept_BL).long().argsort(dim=1, stable=True)
    rank_L = torch.arange(length, device=kept_BL.device)
    offset_W = torch.tensor([*range(-window, 0), *range(1, window + 1)], device=kept_BL.device)
    rank_LW = rank_L[:, None] + offset_W
    num_B11 = kept_BL.sum(1)[:, None, None]
    reach_BL1 = 1 + draw.integers("reach", window, length)[..., None]
    used_BLW = (offset_W.abs() <= reach_BL1) & (rank_LW >= 0) & (rank_LW < num_B11) & (rank_L[:, None] < num_B11)
    neighbour_BLW = place_BL[:, rank_LW.clamp(0, length - 1)]
    if document_BL is not None:
        own_BL1 = document_BL.gather(1, place_BL)[..., None]
        used_BLW &= document_BL.gather(1, neighbour_BLW.flatten(1)).view_as(neighbour_BLW) == own_BL1
    return Windows(place_BL, neighbour_BLW, used_BLW)


def vectors_at(tokens_BLD: Tensor, place_BX: Tensor, wanted_BX: Tensor) -> Tensor:
    """(N, ..., D): the vectors at places of each row (B, L, ...), where they are wanted (B, L) or (B, L, W).

    Looked up as an embedding, whose gradient is added up faster than that of an index.
    """
    row_B = torch.arange(len(tokens_BLD), device=place_BX.device) * tokens_BLD.shape[1]
    return F.embedding((row_B.view(-1, *[1] * (place_BX.ndim - 1)) + place_BX)[wanted_BX], tokens_BLD.flatten(0, 1))


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
