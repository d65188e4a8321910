"""From hidden vectors to tokens: the output layers of language objectives, tied to the token embedding.

Shapes: N targets, D width of what comes in, E width of the embedding, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from objectives.linear_cross_entropy import linear_cross_entropy


class TokenHead(nn.Module):
    """BERT's: dense, GELU, LayerNorm, then the token embedding and a bias (Devlin et al. 2019, the authors' code).

    Args:
        width: D.
        embedding_VD: the encoder's token embedding; given again at every call, because the encoder owns it.
        scale: of what is compared with the embedding, to begin with; `encoder.tied_scale`.
    """

    def __init__(self, width: int, embedding_VD: Tensor, scale: float = 1.0):
        super().__init__()
        self.dense = nn.Linear(width, embedding_VD.shape[1])
        self.norm = nn.LayerNorm(embedding_VD.shape[1], eps=1e-12)
        self.bias_V = nn.Parameter(torch.zeros(len(embedding_VD)))
        nn.init.normal_(self.dense.weight, std=0.02)
        nn.init.zeros_(self.dense.bias)
        nn.init.constant_(self.norm.weight, scale)

    def transformed(self, hidden_ND: Tensor) -> Tensor:
        """(N, E): what the embedding is compared with."""
        return self.norm(gelu(self.dense(hidden_ND)))

    def forward(self, hidden_ND: Tensor, embedding_VE: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
        """(sum of nats, number right) as `linear_cross_entropy` gives them."""
        return linear_cross_entropy(self.transformed(hidden_ND), embedding_VE, self.bias_V, target_N)

    def logits(self, hidden_ND: Tensor, embedding_VE: Tensor) -> Tensor:
        """(N, V) float32."""
        return (self.transformed(hidden_ND) @ embedding_VE.T).float() + self.bias_V
