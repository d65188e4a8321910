"""Replaced-token detection beside a plain loop over transformers' two ELECTRA models, every logit computed, dropout off."""

import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling, ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

from benchmarks.cases.case import Case, Peer
from benchmarks.cases.mlm import SMALL
from benchmarks.gate import Gate
from benchmarks.peers import plain_loop
from benchmarks.works import PAD, Work, tokenizer

WEIGHT = 50.0


def plain(gate: Gate, work: Work, precision: str) -> None:
    built = work.build()
    own, small = built.encoder.net.config, built.generator.config
    shape = {"vocab_size": work.vocabulary, "embedding_size": own.hidden_size, "pad_token_id": PAD}
    shape |= {"num_hidden_layers": own.num_hidden_layers, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    generator, detector = (
        kind(
            ElectraConfig(
                hidden_size=config.hidden_size, num_attention_heads=config.num_attention_heads,
                intermediate_size=config.intermediate_size, **shape,
            )
        )
        for kind, config in ((ElectraForMaskedLM, small), (ElectraForPreTraining, own))
    )  # fmt: skip
    detector.electra.embeddings = generator.electra.embeddings
    collator = DataCollatorForLanguageModeling(tokenizer(work.vocabulary), mlm_probability=0.15)

    def loss(ids: Tensor) -> Tensor:
        batch = collator([{"input_ids": row} for row in ids])
        guess = generator(input_ids=batch["input_ids"], labels=batch["labels"])
        noisy = batch["labels"] >= 0
        logits = guess.logits.detach()[noisy]
        noise = -torch.empty_like(logits).exponential_().log()  # Gumbel
        filled = ids.masked_scatter(noisy, (logits + noise).argmax(-1))
        return guess.loss + WEIGHT * detector(input_ids=filled, labels=(filled != ids).long()).loss

    batches = (batch["ids"] for batch in work.batches(built))
    del built  # or its weights would count as the peer's memory
    plain_loop(gate, [generator, detector], loss, batches, precision)


CASES = {
    "rtd": Case(
        Work("rtd", "bert_mini", batch=64, length=128, vocabulary=8192),
        Work("rtd", "bert_mini", batch=4, length=16, vocabulary=64, words=SMALL),
        {"plain": Peer(plain, "plain loop over both ELECTRA models, every logit", 2.2)},
    )
}
