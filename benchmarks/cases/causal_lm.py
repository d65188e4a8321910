"""Causal language modelling beside Hugging Face's Trainer with its own collator and `GPT2LMHeadModel`, dropout off."""

from transformers import DataCollatorForLanguageModeling, GPT2Config, GPT2LMHeadModel

from benchmarks.cases.case import Case, Peer
from benchmarks.cases.mlm import SMALL
from benchmarks.gate import Gate
from benchmarks.peers import Repeated, huggingface_trainer
from benchmarks.works import Work, tokenizer


def huggingface(gate: Gate, work: Work, precision: str) -> None:
    own = work.build().encoder.net.config
    config = GPT2Config(
        vocab_size=work.vocabulary, n_embd=own.n_embd, n_layer=own.n_layer, n_head=own.n_head, n_inner=own.n_inner,
        n_positions=own.n_positions, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id,
    )  # fmt: skip
    collator = DataCollatorForLanguageModeling(tokenizer(work.vocabulary), mlm=False)
    data = Repeated(work.ids(), lambda ids: {"input_ids": ids})
    huggingface_trainer(gate, GPT2LMHeadModel(config), data, work.batch, precision, collator)


CASES = {
    "causal_lm": Case(
        Work("causal_lm", "gpt_mini", batch=64, length=128, vocabulary=8192),
        Work("causal_lm", "gpt_mini", batch=4, length=16, vocabulary=64, words=SMALL),
        {"huggingface": Peer(huggingface, "Hugging Face Trainer and collator", 1.3)},
    )
}
