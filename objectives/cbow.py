"""Continuous bag of words with negative sampling, Word2Vec (Mikolov et al. 2013a, "Efficient Estimation of Word
Representations in Vector Space", section 3.1; noise and subsampling as in 2013b, section 2).

Noise:  frequent tokens are left out at random.
Input:  the mean of the tokens in a window of random size around a place.
Target: the token at the place, to be told apart from tokens drawn by their frequency.

Shapes: B rows, L tokens a row, W neighbours of a token, N places, K noise tokens, D width.
"""

import torch

from datamodules.spec import DataSpec
from models.word_vectors import WordVectors
from objectives.draw import Draw
from objectives.objective import Batch, Objective, Outcome
from objectives.targets import mean_over_targets, share
from objectives.text_tables import TextTables
from objectives.word2vec import Word2Vec, neighbours, vectors_at


class ContinuousBagOfWords(Objective):
    """Word vectors whose mean predicts what stands between them.

    The authors' code gives every neighbour the whole gradient of the mean; here it is the mean's own.

    Args:
        encoder: a table of word vectors, the paper's input vectors; the output vectors are left behind.
        spec: the opened data, running text.
        window, negatives, subsample: as in `Word2Vec`.
    """

    modality = "text"
    needs = ("ids",)
    attention = "none"

    def __init__(self, encoder: WordVectors, spec: DataSpec, window: int = 5, negatives: int = 5, subsample: float = 1e-3):
        super().__init__(encoder)
        self.word2vec, self.tables = Word2Vec(spec, encoder.width, window, negatives, subsample), TextTables(spec)

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        found, noise_BLK = self.word2vec.windows(batch, draw), self.word2vec.noise(draw, batch["ids"].shape[1])
        some_BL = found.used_BLW.any(-1)  # leaving the other places out is worth more than static shapes
        vector_NWD = vectors_at(self.encoder(self.encoder.inputs(batch)).tokens, found.neighbour_BLW, some_BL)
        used_NW = found.used_BLW[some_BL]
        weight_N1W = (used_NW / used_NW.sum(1, keepdim=True))[:, None]
        mean_ND = torch.bmm(weight_N1W, vector_NWD)[:, 0]
        nats, correct = self.word2vec(mean_ND, batch["ids"].gather(1, found.place_BL)[some_BL], noise_BLK[some_BL])
        num_targets = some_BL.sum()
        return Outcome(mean_over_targets(nats, num_targets), {"accuracy": share(correct, num_targets)})

    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """Words and the tokens whose vectors are most alike."""
        return {"neighbours": neighbours(self.encoder, self.tables, batch)}
