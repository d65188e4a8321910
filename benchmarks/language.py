"""Masked, replaced-token and span objectives beside what a user would write or run instead, alternating in one process.

MLM:  Hugging Face's Trainer with its own collator and `BertForMaskedLM`, as its documentation runs it.
RTD:  `ElectraForMaskedLM` as generator and `ElectraForPreTraining` in a plain loop with the collator's masks, every logit
      computed.
span: `BertForMaskedLM` in a plain loop on span masks made one row at a time, every logit computed; without the boundary
      objective on either side.

The same model (dropout off), optimiser, batch, precision and tokens on both sides. Times are of steps in steady state.

    python benchmarks/language.py mlm rtd span --precision auto --rounds 5
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from datamodules.spec import DataSpec
from datamodules.vocabulary import Vocabulary
from models.text_encoder import TextEncoder
from objectives.mlm import MaskedLanguageModel
from objectives.objective import Objective
from objectives.rtd import ReplacedTokenDetection
from objectives.span import SpanBERT
from training.checkpoints import Checkpoints
from training.course import Steps
from training.monitors import Monitors
from training.optimization import Optimization
from training.pretraining import Pretraining
from training.progress import ProgressLine
from training.trainer import build_trainer, prepare_speed, resolve_precision

VOCABULARY, LENGTH, BATCH, WIDTH, DEPTH, HEADS = 8192, 128, 64, 256, 4, 4
WARM = 2  # steps that are not timed
LR = 1e-3
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer of the right size; no text is tokenised here."""
    pieces = [*SPECIALS, *(f"w{i}" if i % 4 else f"##w{i}" for i in range(VOCABULARY - len(SPECIALS)))]
    model = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIALS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=model, **names)


def blocks(num_steps: int) -> Tensor:
    """(steps x B, L) tokens, [CLS] first; their values do not change the speed."""
    ids = torch.randint(len(SPECIALS), VOCABULARY, (num_steps * BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = SPECIALS.index("[CLS]")
    return ids


def ours(make: Callable[[TextEncoder, DataSpec], Objective], num_steps: int, precision: str) -> float:
    """Tokens a second of train.py's Trainer."""
    torch.manual_seed(0)
    spec = DataSpec("random", "text", num_steps * BATCH, block_length=LENGTH, vocabulary=Vocabulary(tokenizer()))
    objective = make(TextEncoder(spec, "bert", width=WIDTH, depth=DEPTH, heads=HEADS, feedforward=4 * WIDTH), spec)
    settings = {
        "accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "precision": precision, "attention": "auto",
    }  # fmt: skip
    prepare_speed(objective, settings)
    index = torch.arange(BATCH)
    data = [
        {"ids": ids, "index": index + step * BATCH, "epoch": torch.zeros_like(index), "corrupt": torch.tensor(0)}
        for step, ids in enumerate(blocks(num_steps).split(BATCH))
    ]
    times: list[float] = []

    class Clock(ProgressLine):
        def on_train_batch_end(self, *arguments: object) -> None:
            super().on_train_batch_end(*arguments)
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        recipe = Optimization(torch.optim.AdamW, LR * 256 / BATCH, clip_norm=1.0)
        module = Pretraining(objective, recipe, Steps(num_steps + 1), BATCH, seed=0)
        callbacks = [Clock(), Monitors(None, None, 0, 0), Checkpoints(Path(folder), 10_000)]
        trainer = build_trainer(settings, Path(folder), Steps(num_steps), 1.0, callbacks)
        trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))
    return rate(times)


def trainer_mlm(num_steps: int, precision: str) -> float:
    """Tokens a second of Hugging Face's Trainer."""
    torch.manual_seed(0)
    model = BertForMaskedLM(bert_config())
    collator = DataCollatorForLanguageModeling(tokenizer(), mlm_probability=0.15)
    data = [{"input_ids": ids} for ids in blocks(num_steps)]
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: object, **settings: object) -> None:
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_train_batch_size=BATCH, max_steps=num_steps, learning_rate=LR, use_cpu=True,
            bf16=precision == "bf16", report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        Trainer(model, arguments, data_collator=collator, train_dataset=data, callbacks=[Clock()]).train()
    return rate(times)


def plain_rtd(num_steps: int, precision: str) -> float:
    """Tokens a second of a plain loop over transformers' two models, all logits computed."""
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "embedding_size": WIDTH, "num_hidden_layers": DEPTH, "pad_token_id": 0}
    shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    generator = ElectraForMaskedLM(
        ElectraConfig(hidden_size=WIDTH // 4, num_attention_heads=1, intermediate_size=WIDTH, **shape)
    )
    detector = ElectraForPreTraining(
        ElectraConfig(hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH, **shape)
    )
    detector.electra.embeddings = generator.electra.embeddings
    collator = DataCollatorForLanguageModeling(tokenizer(), mlm_probability=0.15)

    def loss(ids: Tensor) -> Tensor:
        batch = collator([{"input_ids": row} for row in ids])
        guess = generator(input_ids=batch["input_ids"], labels=batch["labels"])
        noise = -torch.empty_like(guess.logits).exponential_().log()  # Gumbel
        sampled = (guess.logits.detach() + noise).argmax(-1)
        filled = torch.where(batch["labels"] >= 0, sampled, ids)
        return guess.loss + 50 * detector(input_ids=filled, labels=(filled != ids).long()).loss

    return plain_loop([generator, detector], loss, num_steps, precision)


def plain_span(num_steps: int, precision: str) -> float:
    """Tokens a second of a plain loop with span masks from a loop over rows, all logits computed."""
    torch.manual_seed(0)
    model, random = BertForMaskedLM(bert_config()), np.random.default_rng(0)
    continues = np.array([piece.startswith("##") for piece in tokenizer().convert_ids_to_tokens(range(VOCABULARY))])
    share = 0.2 * 0.8 ** np.arange(10)

    def loss(ids: Tensor) -> Tensor:
        seen, labels = ids.clone(), torch.full_like(ids, -100)
        for row, own in enumerate(ids.numpy()):
            starts = [i for i in range(1, LENGTH) if not continues[own[i]]]
            covered: set[int] = set()
            while len(covered) < round(0.15 * LENGTH):
                first = random.integers(len(starts))
                last = min(first + random.choice(10, p=share / share.sum()) + 1, len(starts))
                covered.update(range(starts[first], starts[last] if last < len(starts) else LENGTH))
            place = torch.tensor(sorted(covered))
            labels[row, place] = ids[row, place]
            seen[row, place] = SPECIALS.index("[MASK]")
        return model(input_ids=seen, labels=labels).loss

    return plain_loop([model], loss, num_steps, precision)


def plain_loop(networks: list[torch.nn.Module], loss: Callable[[Tensor], Tensor], num_steps: int, precision: str) -> float:
    weights = {id(weight): weight for network in networks for weight in network.parameters()}
    optimizer = torch.optim.AdamW(weights.values(), LR)
    times = []
    for ids in blocks(num_steps).split(BATCH):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value = loss(ids)
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        times.append(time.perf_counter())
    return rate(times)


def bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH, pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def rate(times: list[float]) -> float:
    """Tokens a second from the times at which steps ended."""
    return BATCH * LENGTH * (len(times) - WARM) / (times[-1] - times[WARM - 1])


WORK = {
    "mlm": (MaskedLanguageModel, trainer_mlm, "Hugging Face Trainer"),
    "rtd": (ReplacedTokenDetection, plain_rtd, "plain loop, every logit"),
    "span": (lambda encoder, spec: SpanBERT(encoder, spec, boundary=False), plain_span, "plain loop, every logit"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", nargs="*", default=list(WORK), help=f"any of {', '.join(WORK)}")
    parser.add_argument("--precision", default="auto", help="auto, fp32 or bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="of each side in each round")
    parser.add_argument("--json", type=Path, help="also write the rates here")
    chosen = parser.parse_args()
    unknown = [name for name in chosen.work if name not in WORK]
    if unknown:
        parser.error(f"there is no work '{unknown[0]}'; choices: {', '.join(WORK)}")
    precision = resolve_precision(chosen.precision, "cpu")
    print(f"{WIDTH} wide, {DEPTH} deep, vocabulary {VOCABULARY}, {BATCH} x {LENGTH} tokens, {precision}, "
          f"{torch.get_num_threads()} threads, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}")  # fmt: skip
    found = {}
    for name in chosen.work:
        make, peer, called = WORK[name]
        rates = []
        for round_ in range(chosen.rounds):
            rates.append((ours(make, chosen.steps, precision), peer(chosen.steps, precision)))
            print(f"{name} round {round_}: ours {rates[-1][0]:,.0f}, {called} {rates[-1][1]:,.0f} tokens/s", flush=True)
        ratios = [own / other for own, other in rates]
        found[name] = {"ours": [own for own, _ in rates], called: [other for _, other in rates]}
        print(f"{name}: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)
    if chosen.json:
        chosen.json.write_text(
            json.dumps({"precision": precision, "torch": torch.__version__, "rates": found}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
