"""Continuous bag of words with negative sampling, Word2Vec (Mikolov et al. 2013a, "Efficient Estimation of Word
Representations in Vector Space", section 3.1; noise and subsampling as in 2013b, section 2).

Noise:  frequent tokens are left out at random.
Input:  the mean of the tokens in a window of random size around a place.
Target: the token at the place, to be told apart from tokens drawn by their frequency, as in skip_gram.py.

Shapes: B rows, L tokens a row, M noise tokens a row, D width.
"""

import torch
import torch.nn.functional as F

from datamodules.spec import DataSpec
from models.word_vectors import WordVectors
from objectives.draw import Draw
from objectives.objective import Batch, Objective, Outcome
from objectives.targets import mean_over_targets, share
from objectives.text_tables import TextTables
from objectives.word2vec import Word2Vec, neighbours
from ranges import Count, NotNegative


class ContinuousBagOfWords(Objective):
    """Word vectors whose mean predicts what stands between them.

    The authors' code gives every neighbour the whole gradient of the mean; here it is the mean's own.

    Args:
        encoder: a table of word vectors, the paper's input vectors; the output vectors are left behind.
        spec: the opened data, running text.
        window, negatives, noise_tokens, subsample: as in `Word2Vec`.
    """

    modality = "text"
    needs = ("ids",)
    attention = "none"

    def __init__(
        self,
        encoder: WordVectors,
        spec: DataSpec,
        window: Count = 5,
        negatives: Count = 5,
        noise_tokens: Count = 64,
        subsample: NotNegative = 1e-3,
    ):
        super().__init__(encoder)
        self.tables = TextTables(spec)
        self.word2vec = Word2Vec(spec, encoder.width, window, negatives, noise_tokens, subsample)

    def forward(self, batch: Batch, draw: Draw) -> Outcome:
        ids_BL = batch["ids"]
        around_BLL, noise_BM = self.word2vec.windows(batch, draw), self.word2vec.noise(draw)
        num_BL1 = around_BLL.sum(-1, keepdim=True)
        mean_BLD = torch.bmm(around_BLL / num_BL1.clamp(min=1), self.encoder(self.encoder.inputs(batch)).tokens)
        score_BL = (mean_BLD * self.word2vec.output(ids_BL)).float().sum(-1)
        target_BL1 = num_BL1 > 0
        other_BLM = ids_BL[:, :, None] != noise_BM[:, None, :]
        noise_nats, best_BL1 = self.word2vec.against(mean_BLD, noise_BM, target_BL1 & other_BLM, ids_BL[:, :, None])
        nats = (F.softplus(-score_BL) * target_BL1[..., 0]).sum() + noise_nats
        num_targets, correct = target_BL1.sum(), (target_BL1 & (score_BL[..., None] > best_BL1)).sum()
        return Outcome(mean_over_targets(nats, num_targets), {"accuracy": share(correct, num_targets)})

    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """Words and the tokens whose vectors are most alike."""
        return {"neighbours": neighbours(self.encoder, self.tables, batch)}
