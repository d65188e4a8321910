"""Masked language modelling beside Hugging Face's Trainer with its own collator and `BertForMaskedLM`, dropout off."""

from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling

from benchmarks.cases.case import Case, Peer
from benchmarks.gate import Gate
from benchmarks.peers import Repeated, huggingface_trainer
from benchmarks.works import PAD, Work, tokenizer

SMALL = ("model.width=32", "model.depth=2", "model.heads=2", "model.feedforward=128")


def huggingface(gate: Gate, work: Work, precision: str) -> None:
    collator = DataCollatorForLanguageModeling(tokenizer(work.vocabulary), mlm_probability=0.15)
    data = Repeated(work.ids(), lambda ids: {"input_ids": ids})
    huggingface_trainer(gate, BertForMaskedLM(bert_config(work)), data, work.batch, precision, collator)


def bert_config(work: Work) -> BertConfig:
    """transformers' words for the encoder of a work."""
    own = work.build().encoder.net.config
    return BertConfig(
        vocab_size=work.vocabulary, hidden_size=own.hidden_size, num_hidden_layers=own.num_hidden_layers,
        num_attention_heads=own.num_attention_heads, intermediate_size=own.intermediate_size,
        pad_token_id=PAD, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


CASES = {
    "mlm": Case(
        Work("mlm", "bert_mini", batch=64, length=128, vocabulary=8192),
        Work("mlm", "bert_mini", batch=4, length=16, vocabulary=64, words=SMALL),
        {"huggingface": Peer(huggingface, "Hugging Face Trainer and collator", 2.2)},
    )
}
