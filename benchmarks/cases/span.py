"""Masked spans beside a plain loop over `BertForMaskedLM`: masks made row by row, every logit computed, dropout off.

Without the boundary objective on either side, which transformers has not.
"""

import numpy as np
import torch
from torch import Tensor
from transformers import BertForMaskedLM

from benchmarks.cases.case import Case, Peer
from benchmarks.cases.mlm import SMALL, bert_config
from benchmarks.gate import Gate
from benchmarks.peers import plain_loop
from benchmarks.works import MASK, Work, tokenizer

LONGEST, P, MASK_RATIO = 10, 0.2, 0.15


def plain(gate: Gate, work: Work, precision: str) -> None:
    model, random = BertForMaskedLM(bert_config(work)), np.random.default_rng(0)
    pieces = tokenizer(work.vocabulary).convert_ids_to_tokens(range(work.vocabulary))
    continues = np.array([piece.startswith("##") for piece in pieces])
    share = P * (1 - P) ** np.arange(LONGEST)

    def loss(ids: Tensor) -> Tensor:
        seen, labels = ids.clone(), torch.full_like(ids, -100)
        for row, own in enumerate(ids.numpy()):
            starts = [i for i in range(1, work.length) if not continues[own[i]]]
            covered: set[int] = set()
            while len(covered) < round(MASK_RATIO * work.length):
                first = random.integers(len(starts))
                last = min(first + random.choice(LONGEST, p=share / share.sum()) + 1, len(starts))
                covered.update(range(starts[first], starts[last] if last < len(starts) else work.length))
            place = torch.tensor(sorted(covered))
            labels[row, place] = ids[row, place]
            seen[row, place] = MASK
        return model(input_ids=seen, labels=labels).loss

    batches = (batch["ids"] for batch in work.batches(work.build()))
    plain_loop(gate, [model], loss, batches, precision)


WITHOUT_BOUNDARY = ("objective.boundary=false",)
CASES = {
    "span": Case(
        Work("span", "bert_mini", batch=64, length=128, vocabulary=8192, words=WITHOUT_BOUNDARY),
        Work("span", "bert_mini", 4, length=16, vocabulary=64, words=SMALL + WITHOUT_BOUNDARY),
        {"plain": Peer(plain, "plain loop, masks row by row, every logit", 2.2)},
    )
}
