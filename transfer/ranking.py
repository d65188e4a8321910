"""Ranks of what belongs together among candidates, and what a random order of them would reach.

Shapes: Q queries, N candidates.
"""

import numpy as np
import torch
from scipy.stats import hypergeom
from torch import Tensor


def best_ranks(similarity_QN: Tensor, positive_QN: Tensor) -> Tensor:
    """(Q,) int64: the rank from 1 of each query's best positive; of candidates that are equally near the first comes first.

    A similarity that is NaN counts against the query: a positive is then last, another candidate before every positive.
    """
    unknown_QN = similarity_QN.isnan()
    similarity_QN = similarity_QN.masked_fill(unknown_QN & positive_QN, -torch.inf).masked_fill(
        unknown_QN & ~positive_QN, torch.inf
    )
    nearest_Q1, place_Q1 = similarity_QN.masked_fill(~positive_QN, -torch.inf).max(1, keepdim=True)
    before_QN = torch.arange(similarity_QN.shape[1], device=similarity_QN.device) < place_Q1
    return 1 + ((similarity_QN > nearest_Q1) | ((similarity_QN == nearest_Q1) & before_QN)).sum(1)


def chance_of_recall(num_positives_Q: np.ndarray, num_candidates: int, k: int) -> float:
    """How many queries find a positive among the first k of a random order, on average.

    With P positives among N candidates that is 1 - C(N - P, k) / C(N, k): the first k are a draw without replacement.
    """
    return float(hypergeom.sf(0, num_candidates, num_positives_Q, min(k, num_candidates)).mean())


def chance_of_median_rank(num_positives_Q: np.ndarray, num_candidates: int) -> int:
    """The median of the best positive's rank in a random order, over orders and queries: where recall reaches a half."""
    values, counts = np.unique(num_positives_Q, return_counts=True)
    ranks = np.arange(1, num_candidates + 1)
    recall = hypergeom.sf(0, num_candidates, values, ranks[:, None]) @ counts / counts.sum()
    return int(ranks[np.argmax(recall >= 0.5 - 1e-12)])
