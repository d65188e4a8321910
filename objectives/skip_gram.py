"""Skip-gram with negative sampling, Word2Vec (Mikolov et al. 2013b, section 2).

Noise:  frequent tokens are left out at random.
Input:  one token.
Target: each token in a window of random size around it, to be told apart from tokens drawn by their frequency (equation 4):
        -log sigmoid(output of the target . vector) - 5 x mean over the noise of log sigmoid(-output of the noise . vector).

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


class SkipGram(Objective):
    """Word vectors that predict their neighbours.

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
        target_BLL, noise_BM = self.word2vec.windows(batch, draw), self.word2vec.noise(draw)
        vector_BLD = self.encoder(self.encoder.inputs(batch)).tokens
        score_BLL = torch.bmm(vector_BLD, self.word2vec.output(ids_BL).mT).float()
        other_BLM = ids_BL[:, :, None] != noise_BM[:, None, :]
        weight_BLM = torch.bmm(target_BLL.float(), other_BLM.float())
        noise_nats, best_BLL = self.word2vec.against(vector_BLD, noise_BM, weight_BLM, ids_BL[:, None, :])
        nats = (F.softplus(-score_BLL) * target_BLL).sum() + noise_nats
        num_targets, correct = target_BLL.sum(), (target_BLL & (score_BLL > best_BLL)).sum()
        return Outcome(mean_over_targets(nats, num_targets), {"accuracy": share(correct, num_targets)})

    def texts(self, batch: Batch, draw: Draw) -> dict[str, str]:
        """Words and the tokens whose vectors are most alike."""
        return {"neighbours": neighbours(self.encoder, self.tables, batch)}
