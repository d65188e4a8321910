"""Skip-gram with negative sampling, Word2Vec (Mikolov et al. 2013b, section 2).

Noise:  frequent tokens are left out at random.
Input:  one token.
Target: each token in a window of random size around it, to be told apart from tokens drawn by their frequency.

Shapes: B rows, L tokens a row, W neighbours of a token, N pairs of tokens, K noise tokens, D width.
"""

from torch import Tensor

from datamodules.spec import DataSpec
from models.word_vectors import WordVectors
from objectives.draw import Draw
from objectives.objective import Batch, Objective, Outcome
from objectives.targets import mean_over_targets, share
from objectives.text_tables import TextTables
from objectives.word2vec import Word2Vec, neighbours, vectors_at


class SkipGram(Objective):
    """Word vectors that predict their neighbours.

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
        place_BLW, target_BLW, noise_BLWK, used_BLW = self.pairs(batch, draw)
        tokens_BLD = self.encoder(self.encoder.inputs(batch)).tokens
        # most pairs are out of reach or left out: leaving them out is worth more than static shapes
        vector_ND = vectors_at(tokens_BLD, place_BLW, used_BLW)
        nats, correct = self.word2vec(vector_ND, target_BLW[used_BLW], noise_BLWK[used_BLW])
        num_targets = used_BLW.sum()
        return Outcome(mean_over_targets(nats, num_targets), {"accuracy": share(correct, num_targets)})

    def pairs(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(place of the input, id of its neighbour, ids of the noise, whether there is such a pair), each (B, L, W, ...)."""
        found = self.word2vec.windows(batch, draw)
        target_BLW = batch["ids"].gather(1, found.neighbour_BLW.flatten(1)).view_as(found.neighbour_BLW)
        noise_BLWK = self.word2vec.noise(draw, *target_BLW.shape[1:])
        return found.place_BL[..., None].expand_as(target_BLW), target_BLW, noise_BLWK, found.used_BLW

    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """Words and the tokens whose vectors are most alike."""
        return {"neighbours": neighbours(self.encoder, self.tables, batch)}
