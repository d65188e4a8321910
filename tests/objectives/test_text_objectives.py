"""What all language objectives have in common: they learn, are judged alike whatever the epoch, and show something to read."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import text_batch, text_encoder, text_spec

from datamodules.spec import DataSpec
from models.bilstm import BiLSTM
from objectives.bidirectional_lm import BidirectionalLanguageModel
from objectives.causal_lm import CausalLanguageModel
from objectives.draw import Draw
from objectives.mlm import MaskedLanguageModel
from objectives.objective import Batch, Objective
from objectives.permutation_lm import PermutationLanguageModel
from objectives.prefix_lm import PrefixLanguageModel, splits
from objectives.rtd import ReplacedTokenDetection
from objectives.span import SpanBERT
from objectives.span_corruption import SpanCorruption
from objectives.supervised_text import SupervisedText

SPEC = text_spec(num_sentinels=16)
KINDS = {
    "mlm": (MaskedLanguageModel, "bert", "pseudo_perplexity"),
    "rtd": (ReplacedTokenDetection, "bert", "generator_pseudo_perplexity"),
    "span": (SpanBERT, "modernbert", "pseudo_perplexity"),
    "causal_lm": (CausalLanguageModel, "llama", "bits_per_byte"),
    "prefix_lm": (PrefixLanguageModel, "gpt2", "bits_per_byte"),
    "span_corruption": (SpanCorruption, "t5", "span_perplexity"),
    "permutation_lm": (PermutationLanguageModel, "bert", "pseudo_perplexity"),
    "bidirectional_lm": (BidirectionalLanguageModel, "bilstm", "bits_per_byte"),
}


def draw_of(batch: Batch) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


@pytest.fixture(params=KINDS)
def name(request) -> str:
    return request.param


@pytest.fixture
def objective(name) -> Objective:
    kind, architecture, _ = KINDS[name]
    encoder = BiLSTM(SPEC, width=64) if architecture == "bilstm" else text_encoder(architecture, SPEC)
    return kind(encoder, SPEC)


def test_the_loss_falls_on_a_batch_that_is_seen_again(objective):
    batch = text_batch(8) | {"corrupt": torch.tensor(0)}
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        outcome = objective(batch, draw_of(batch))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        objective.after_step(0.0)
        losses.append(outcome.loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(value.ndim == 0 and not value.requires_grad for value in outcome.report.values())


def test_held_out_text_is_judged_alike_in_every_epoch(objective, name):
    batch = text_batch(8) | {"corrupt": torch.tensor(0)}
    with torch.inference_mode():
        first, later = (objective.likelihood({**batch, "epoch": batch["epoch"] + epoch}) for epoch in (0, 7))
    assert first.kind == KINDS[name][2]
    assert first.nats == later.nats > 0
    assert first.num_targets == later.num_targets > 0


def test_a_prefix_model_is_judged_as_a_causal_one():
    encoder, batch = text_encoder("gpt2", SPEC), text_batch(8)
    found, expected = (kind(encoder, SPEC).likelihood(batch) for kind in (PrefixLanguageModel, CausalLanguageModel))
    torch.testing.assert_close(found.nats, expected.nats)
    assert found.num_targets == expected.num_targets == 8 * 15


def test_there_is_something_to_read(objective):
    batch = text_batch(8)
    texts = objective.eval().texts(batch, draw_of(batch))
    assert texts
    assert all(text.strip() for text in texts.values())


@pytest.mark.parametrize(("kind", "architecture"), [(CausalLanguageModel, "gpt2"), (PrefixLanguageModel, "llama")])
def test_documents_kept_apart_are_generated_as_if_alone(kind, architecture):
    objective = kind(text_encoder(architecture, SPEC), SPEC)
    batch = text_batch(2)
    batch["document"] = torch.tensor([[0] * 6 + [1] * 7 + [2] * 3, [0] + [1] * 15])
    found, nats, num_targets = objective.likelihood(batch), 0.0, 0
    for row in range(2):
        for number in batch["document"][row].unique():
            own = batch["document"][row] == number
            alone = objective.likelihood({"ids": batch["ids"][row, own][None], "index": torch.tensor([0])})
            nats, num_targets = nats + alone.nats, num_targets + alone.num_targets
    assert found.num_targets == num_targets == 5 + 6 + 2 + 0 + 14
    torch.testing.assert_close(found.nats, nats, rtol=1e-5, atol=1e-4)


def test_prefixes_end_anywhere_but_at_the_edges():
    """Uniform in 1 .. L - 1, so that something is seen and something is left to predict."""
    num, length = 15_000, 16
    batch = text_batch(1, length)
    split = splits({"ids": batch["ids"].expand(num, -1)}, Draw(0, torch.zeros(num, dtype=torch.long), torch.arange(num)))
    targets = [PrefixLanguageModel(text_encoder("gpt2", SPEC), SPEC).predict(batch, s[None])[2] for s in split.unique()]
    assert [int(num_targets) for num_targets in targets] == list(range(length - 1, 0, -1))
    counts = torch.bincount(split, minlength=length)[1:]
    assert ((counts / num - 1 / 15).abs() < 4 * (1 / 15 * 14 / 15 / num) ** 0.5).all()


def test_a_prefix_depends_on_its_own_row_alone():
    """The split of a padded row is that of the row without padding, whatever the batch is filled up to."""
    num, batch = 400, text_batch(1)
    draw = Draw(0, torch.zeros(num, dtype=torch.long), torch.arange(num))
    length = torch.arange(num) % 16 + 1
    found = []
    for width in (16, 40):
        present = torch.arange(width) < length[:, None]
        found.append(splits({"ids": torch.zeros(num, width, dtype=torch.long), "present": present}, draw))
    assert torch.equal(*found)
    for row in range(num):
        alone = splits({"ids": torch.zeros(1, int(length[row]), dtype=torch.long)}, Draw(0, draw.epoch[:1], draw.index[[row]]))
        assert found[0][row] == alone
    assert ((found[0] >= 1) & (found[0] < length.clamp(min=2))).all()
    model = PrefixLanguageModel(text_encoder("gpt2", SPEC), SPEC).eval()
    batch = text_batch(8) | {"present": torch.arange(16) < torch.arange(4, 12)[:, None]}
    wider = batch | {name: F.pad(batch[name], (0, 9)) for name in ("ids", "present")}
    losses = [model(one, draw_of(batch)).loss for one in (batch, wider)]
    torch.testing.assert_close(*losses)


def test_supervised_text_is_cross_entropy_or_squared_error():
    batch = text_batch(6) | {"label": torch.tensor([0, 1, 2, 0, 1, 2])}
    classes = DataSpec("task", "text", 10, class_names=("a", "b", "c"), block_length=16, vocabulary=SPEC.vocabulary)
    model = SupervisedText(text_encoder("bert", SPEC), classes, label_smoothing=0.1)
    outcome, scores = model(batch, draw_of(batch)), model.classify(batch)
    torch.testing.assert_close(outcome.loss, F.cross_entropy(scores, batch["label"], label_smoothing=0.1))
    assert outcome.report["accuracy"] == (scores.argmax(1) == batch["label"]).float().mean()
    model = SupervisedText(text_encoder("bert", SPEC), SPEC)  # no classes: scores
    batch["label"] = torch.tensor([0.5, 1.0, -2.0, 0.0, 3.0, 1.5])
    torch.testing.assert_close(model(batch, draw_of(batch)).loss, ((model.classify(batch)[:, 0] - batch["label"]) ** 2).mean())


@pytest.mark.parametrize("objective", [MaskedLanguageModel, SpanBERT])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "t5"])
def test_the_first_loss_is_that_of_a_uniform_guess_whatever_the_embedding_s_scale(objective, architecture):
    spec = text_spec(64)
    loss = objective(text_encoder(architecture, spec), spec)(text_batch(32, 64), draw_of(text_batch(32, 64))).loss.item()
    terms = 2 if objective is SpanBERT else 1  # the boundary objective predicts every token again
    assert loss == pytest.approx(terms * math.log(spec.vocabulary.size), rel=0.25)
