"""Word2Vec: gradients by hand, who stays, how far windows reach, what noise is drawn, and vectors that mean something."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CLS, PIECES, SEP, text_batch, text_spec
from scipy import stats
from torch import Tensor

from datamodules.spec import DataSpec
from errors import BadInput
from models.word_vectors import WordVectors
from objectives.cbow import ContinuousBagOfWords
from objectives.draw import Draw
from objectives.skip_gram import SkipGram
from objectives.word2vec import FINENESS, staying, windows

COUNTS = np.random.default_rng(0).zipf(1.3, 82).clip(max=5000)  # special tokens are counted too
SPEC = dataclasses.replace(text_spec(), token_counts=COUNTS)
KINDS = (SkipGram, ContinuousBagOfWords)


def draw_of(batch: dict[str, Tensor]) -> Draw:
    return Draw(3, batch["epoch"], batch["index"])


def model_of(kind: type, spec: DataSpec = SPEC, **settings) -> SkipGram | ContinuousBagOfWords:
    torch.manual_seed(0)
    model = kind(WordVectors(spec, 8), spec, **settings)
    torch.nn.init.normal_(model.encoder.net.weight)
    torch.nn.init.normal_(model.word2vec.output.weight)
    return model


def sigmoid(score: float) -> float:
    return 1 / (1 + np.exp(-score))


@pytest.mark.parametrize("document", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_equal_the_formulas_by_hand(kind, document):
    """Loops in float64: equation 4 of 2013b, whose gradient is (sigmoid(score) - label) times the other vector."""
    window, negatives, num_noise, threshold = 3, 4, 10, 0.02
    settings = {"window": window, "negatives": negatives, "noise_tokens": num_noise, "subsample": threshold}
    model, batch = model_of(kind, **settings), text_batch(5)
    batch["ids"][3] = SEP  # a row without a word
    batch["ids"][[0, 2], 6] = SEP  # where documents end
    if document:
        batch["document"] = torch.tensor([[0] * 7 + [1] * 9]).expand(5, -1)
    draw = draw_of(batch)
    share = np.where(SPEC.vocabulary.ordinary, COUNTS, 0) / COUNTS[SPEC.vocabulary.ordinary].sum()
    upto = np.where(SPEC.vocabulary.ordinary, COUNTS, 0) ** 0.75
    upto = upto.cumsum() / upto.sum()
    uniform, reach = draw.uniform("kept", 16).double().numpy(), 1 + draw.integers("reach", window, 16).numpy()
    noise = np.searchsorted(upto, draw.integers("noise", FINENESS, num_noise).numpy() / FINENESS, side="right")
    assert any(set(noise[row]) & set(batch["ids"][row].tolist()) for row in range(5))  # some of it is a target

    table, output = (w.detach().double().numpy() for w in (model.encoder.net.weight, model.word2vec.output.weight))
    table_grad, output_grad, nats, num, right = np.zeros_like(table), np.zeros_like(output), 0.0, 0, 0

    def predict(vector: np.ndarray, target: int, drawn: np.ndarray) -> np.ndarray:
        """Add one prediction; returns the gradient of its vector."""
        nonlocal nats, num, right
        num += 1
        right += all(output[target] @ vector > output[word] @ vector for word in drawn if word != target)
        gradient = np.zeros_like(vector)
        for word, weight in [(target, 1.0), *((word, negatives / num_noise) for word in drawn if word != target)]:
            score, real = output[word] @ vector, word == target
            nats -= weight * np.log(sigmoid(score if real else -score))
            gradient += weight * (sigmoid(score) - real) * output[word]
            output_grad[word] += weight * (sigmoid(score) - real) * vector
        return gradient

    for row in range(5):
        ids = batch["ids"][row].tolist()
        kept = [
            place
            for place, word in enumerate(ids)
            if SPEC.vocabulary.ordinary[word]
            and uniform[row, place] < (np.sqrt(share[word] / threshold) + 1) * threshold / share[word]
        ]
        for number, place in enumerate(kept):
            around = []
            for offset in [*range(-window, 0), *range(1, window + 1)]:
                other = number + offset
                if abs(offset) > reach[row, place] or not 0 <= other < len(kept):
                    continue
                if document and (kept[other] < 7) != (place < 7):
                    continue
                if not document and SEP in ids[min(place, kept[other]) : max(place, kept[other])]:
                    continue
                around.append(ids[kept[other]])
            if kind is SkipGram:
                for word in around:
                    table_grad[ids[place]] += predict(table[ids[place]], word, noise[row])
            elif around:
                gradient = predict(table[around].mean(0), ids[place], noise[row])
                for word in around:
                    table_grad[word] += gradient / len(around)

    outcome = model(batch, draw)
    outcome.loss.backward()
    assert num > 20
    assert outcome.loss.item() == pytest.approx(nats / num, rel=1e-6)
    assert outcome.report["accuracy"].item() == pytest.approx(right / num, rel=1e-6)
    for weight, expected in ((model.encoder.net.weight, table_grad), (model.word2vec.output.weight, output_grad)):
        np.testing.assert_allclose(weight.grad.numpy(), expected / num, rtol=1e-4, atol=1e-6)


def test_who_stays_is_the_authors_formula():
    counts = np.array([0, 1, 10, 1000, 100_000, 898_989.0])
    total, sample = counts.sum(), 1e-3
    for count, stays in zip(counts[1:], staying(counts, sample)[1:], strict=True):
        authors = (np.sqrt(count / (sample * total)) + 1) * (sample * total) / count
        assert stays == pytest.approx(authors)
    assert staying(counts, sample)[0] == 0
    assert (staying(counts, 0.0) == (counts > 0)).all()


def test_frequent_tokens_are_left_out_as_often_as_the_formula_says_and_special_ones_always():
    model = model_of(SkipGram, subsample=0.01)
    ids = torch.arange(82).expand(4000, -1)
    batch = {"ids": ids, "epoch": torch.zeros(4000, dtype=torch.long), "index": torch.arange(4000)}
    kept = draw_of(batch).uniform("kept", 82) < model.word2vec.stay_V[ids]
    assert not kept[:, : PIECES.start].any()
    ordinary = COUNTS * SPEC.vocabulary.ordinary
    expected = torch.from_numpy(staying(ordinary, 0.01)).clamp(max=1)[PIECES.start :]
    assert (expected < 0.5).any()
    assert (expected == 1).any()
    found = kept.double().mean(0)[PIECES.start :]
    assert ((found - expected).abs() <= 4.5 * (expected * (1 - expected) / 4000).sqrt()).all()


def test_windows_have_every_size_alike_and_reach_over_what_is_left_out():
    num, length, window = 4000, 20, 5
    draw = Draw(0, torch.zeros(num, dtype=torch.long), torch.arange(num))
    kept = torch.ones(num, length, dtype=torch.bool)
    kept[:, ::2] = False
    inside = windows(draw, kept, window)
    assert not inside[:, ::2].any()
    assert not inside[:, :, ::2].any()
    share = inside[:, 11, 1::2].double().mean(0)  # five kept tokens on its left, four on its right
    expected = torch.tensor([1, 2, 3, 4, 5, 0, 5, 4, 3, 2]) / window
    assert ((share - expected).abs() <= 4.5 * (expected * (1 - expected) / num).sqrt()).all()
    share = inside[:, 1, 1::2].double().mean(0)
    expected = torch.tensor([0, 5, 4, 3, 2, 1, 0, 0, 0, 0]) / window
    assert ((share - expected).abs() <= 4.5 * (expected * (1 - expected) / num).sqrt()).all()
    assert (inside[:, 11, 13] == inside[:, 11, 9]).all()  # as far on both sides


@pytest.mark.parametrize("kind", KINDS)
def test_windows_stop_where_a_document_ends(kind):
    """As if the end token were not in the middle of a row but at the end of one."""
    model, batch = model_of(kind, window=8, subsample=0), text_batch(200)
    batch["ids"][:, 9] = SEP
    inside = model.word2vec.windows(batch, draw_of(batch))
    assert inside[:, 1:9, 1:9].any()
    assert inside[:, 10:, 10:].any()
    assert not inside[:, :10, 10:].any()
    assert not inside[:, 10:, :10].any()


@pytest.mark.parametrize("kind", KINDS)
def test_noise_that_is_the_target_is_no_competitor(kind):
    """Each place knows its own token and no other, which all of the noise is too."""
    counts = np.zeros(82, int)
    counts[7] = 5
    model, batch = model_of(kind, dataclasses.replace(SPEC, token_counts=counts), subsample=0), text_batch(4)
    batch["ids"][:, 1:-1] = 7
    assert model(batch, draw_of(batch)).report["accuracy"] == 1


def test_noise_is_drawn_by_count_to_the_three_quarters():
    model, batch = model_of(SkipGram), text_batch(300)
    noise = model.word2vec.noise(draw_of(batch)).flatten()
    expected = (COUNTS * SPEC.vocabulary.ordinary) ** 0.75
    assert not (torch.bincount(noise, minlength=82).numpy()[expected == 0]).any()
    likely = expected > 0
    counts = torch.bincount(noise, minlength=82).numpy()[likely]
    assert stats.chisquare(counts, expected[likely] / expected.sum() * len(noise)).pvalue > 1e-3


def test_a_token_that_never_occurs_is_never_drawn():
    counts = np.zeros(82, int)
    counts[[2, 7, 40]] = 5  # one of them special
    spec = dataclasses.replace(text_spec(num_sentinels=4), token_counts=counts)
    noise = model_of(SkipGram, spec).word2vec.noise(draw_of(text_batch(100)))
    assert set(noise.unique().tolist()) == {7, 40}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_words_add_nothing(kind):
    model, batch = model_of(kind), text_batch(2)
    batch["ids"][:] = CLS
    outcome = model(batch, draw_of(batch))
    outcome.loss.backward()
    assert outcome.loss == 0
    assert all((weight.grad == 0).all() for weight in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_stand_in_the_same_places_become_neighbours(kind):
    """A language of pairs: before and after 10 + i comes either of 30 + 2 i and 31 + 2 i, by chance."""
    generator = torch.Generator().manual_seed(0)
    topic = torch.randint(0, 10, (100, 1), generator=generator)
    either = 30 + 2 * topic + torch.randint(0, 2, (100, 16), generator=generator)
    ids = torch.where(torch.arange(16) % 2 == 0, either, 10 + topic)
    spec = dataclasses.replace(text_spec(), token_counts=torch.bincount(ids.flatten(), minlength=82).numpy())
    torch.manual_seed(0)
    model = kind(WordVectors(spec, 16), spec, window=2, subsample=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for epoch in range(50):
        batch = {"ids": ids, "epoch": torch.full((100,), epoch), "index": torch.arange(100)}
        loss = model(batch, draw_of(batch)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    vectors = F.normalize(model.encoder.net.weight.detach(), dim=1)
    similarity = (vectors @ vectors.T).fill_diagonal_(-1)[30:50, 30:50]
    assert (similarity.argmax(1) == torch.arange(20) ^ 1).all()  # each the other of its pair
    shown = model.texts(batch, draw_of(batch))["neighbours"]
    assert len(shown.split("\n\n")) == 12
    assert "[" not in shown  # no special token


def test_what_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="'syllables' is a labelled task"):
        model_of(SkipGram, text_spec())
    for name in ("window", "negatives", "noise_tokens"):
        with pytest.raises(BadInput, match=f"objective.{name} must be at least 1, not 0"):
            model_of(ContinuousBagOfWords, **{name: 0})
    with pytest.raises(BadInput, match="objective.subsample"):
        model_of(SkipGram, subsample=-1)
    only_special = np.where(SPEC.vocabulary.ordinary, 0, COUNTS)
    with pytest.raises(BadInput, match="holds no word that its tokenizer knows"):
        model_of(SkipGram, dataclasses.replace(SPEC, token_counts=only_special))
