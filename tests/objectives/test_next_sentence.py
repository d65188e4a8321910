"""BERT's second task: pairs that really follow each other or really do not, evenly, and no way to tell by their form."""

import pickle
from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import CLS, PAD, PIECES, SEP, text_encoder, text_spec
from scipy import stats

from errors import BadInput
from objectives.draw import Draw
from objectives.mlm import MaskedLanguageModel
from objectives.next_sentence import SentencePairs

SPEC, LENGTH = text_spec(32), 32
FIRST = 1000  # the stream below holds its own places, counted from here
LONG = (400, 90, 150, 60, 1000)  # tokens of documents, all longer than a row
SHORT = (5, 1, 400, 12, 0, 3, 60, 2)
UNEVEN = (5, 400, 12, 3)  # texts of the second have no equal elsewhere
PARAGRAPHS = (*range(5, 41), *range(40, 4, -1))
MIXED = (40, 12, 33, 7, 300, 29, 90, 8, 2)


def pairs_of(sizes: tuple[int, ...], stride: int = 31, **changes) -> SentencePairs:
    ends = np.cumsum(np.array(sizes) + 1)  # with the end token
    stream = SimpleNamespace(
        tokens=np.arange(FIRST, FIRST + ends[-1]), document_ends=ends, num_tokens=int(ends[-1]), split="train"
    )
    blocks = SimpleNamespace(stream=stream, num=int(ends[-1]) // stride, isolate_documents=False, **changes)
    return SentencePairs(blocks, 7, SPEC.vocabulary, LENGTH)


def drawn(pairs: SentencePairs, epochs: int) -> dict[str, torch.Tensor]:
    return pairs.__getitems__([(epoch, index) for epoch in range(epochs) for index in range(len(pairs))])


@pytest.mark.parametrize("sizes", [LONG, SHORT, UNEVEN, PARAGRAPHS], ids=["long", "short", "uneven", "paragraphs"])
def test_a_row_is_two_texts_of_one_document_in_order_or_of_two(sizes):
    pairs = pairs_of(sizes)
    batch = drawn(pairs, 40)
    ends = pairs.stream.document_ends
    owner = np.searchsorted(ends, np.arange(ends[-1]), side="right")
    end_tokens = set((ends - 1 + FIRST).tolist())
    for ids, present, segment, is_next in zip(*(batch[key] for key in ("ids", "present", "segment", "is_next")), strict=True):
        row = ids[present].tolist()
        assert not present[len(row) :].any()
        assert (ids[len(row) :] == PAD).all()
        cut = row.index(SEP)
        first, second = row[1:cut], row[cut + 1 : -1]
        assert (row[0], row[-1]) == (CLS, SEP)
        assert segment.tolist() == [0] * (cut + 1) + [1] * (len(row) - cut - 1) + [0] * (LENGTH - len(row))
        for text in (first, second):
            assert len(text) >= 1
            assert text == list(range(text[0], text[0] + len(text)))  # running text
            assert len(set(owner[np.array(text) - FIRST])) == 1
            assert not end_tokens & set(text)
        assert bool(is_next) == (second[0] == first[-1] + 1)
        assert bool(is_next) == (owner[first[0] - FIRST] == owner[second[0] - FIRST])


def test_half_of_the_pairs_follow_and_form_tells_nothing():
    pairs = pairs_of(LONG)
    batch = drawn(pairs, 150)
    num, follows = len(batch["ids"]), batch["is_next"].bool()
    assert abs(follows.float().mean() - 0.5) < 4 * 0.5 / num**0.5
    assert batch["present"].all()  # so long documents fill every row, whatever the second text is
    cut = (batch["segment"] == 0).sum(1) - 2  # tokens of the first text
    room = LENGTH - 3
    for kind in (follows, ~follows):
        counts = torch.bincount(cut[kind], minlength=room)[1:]
        share, total = 1 / (room - 1), int(kind.sum())
        assert len(counts) == room - 1
        assert ((counts / total - share).abs() < 4.5 * (share * (1 - share) / total) ** 0.5).all()


@pytest.mark.parametrize("sizes", [LONG, PARAGRAPHS, MIXED, (20,) * 12], ids=["long", "paragraphs", "mixed", "equal"])
def test_no_rule_on_lengths_beginnings_and_ends_tells_the_kinds_apart(sizes):
    """Of all that can be seen of a pair's form, the counts of both kinds are samples of one law."""
    pairs = pairs_of(sizes)
    batch = drawn(pairs, 20_000 // len(pairs))
    ends = pairs.stream.document_ends
    begins, lasts = torch.from_numpy(np.concatenate(([0], ends[:-1]))), torch.from_numpy(ends - 2)
    num = batch["present"].sum(1)
    cut = batch["segment"].argmax(1) - 2  # tokens of the first text
    places = batch["ids"] - FIRST
    first, second, last = (places.gather(1, at[:, None])[:, 0] for at in (torch.ones_like(cut), cut + 2, num - 2))
    form = torch.stack(
        [cut, num - cut, torch.isin(first, begins), torch.isin(second, begins), torch.isin(last, lasts), num == LENGTH], dim=1
    )
    _, kind, counts = form.unique(dim=0, return_inverse=True, return_counts=True)
    kind = kind.masked_fill(counts[kind] < 20, counts.argmin())  # rare forms together
    table = torch.stack([torch.bincount(kind[batch["is_next"] == label], minlength=len(counts)) for label in (0, 1)])
    assert stats.chi2_contingency(table[:, table.sum(0) > 0].numpy()).pvalue > 1e-3


def test_first_texts_come_from_documents_by_their_length():
    pairs = pairs_of(LONG)
    first = drawn(pairs, 150)["ids"][:, 1].numpy() - FIRST
    owner = np.searchsorted(pairs.stream.document_ends, first, side="right")
    expected = np.array(LONG) / sum(LONG)
    bound = 4 * (expected * (1 - expected) / len(owner)) ** 0.5
    assert (np.abs(np.bincount(owner) / len(owner) - expected) < bound).all()


def second_texts(sizes: tuple[int, ...]) -> dict[tuple[int, bool], Counter]:
    """{(size of B, whether it ends its document): {(document, its place in it): how often pairs have this B}}, one by one."""
    found = defaultdict(Counter)
    for document, size in enumerate(sizes):
        num = min(size, LENGTH - 3)
        for place in range(size):
            offset = min(place, size - num)
            for cut in range(1, num):
                found[num - cut, offset + num == size][document, offset + cut] += 1 / (num - 1)
    return found


@pytest.mark.parametrize("sizes", [LONG, MIXED], ids=["long", "mixed"])
def test_foreign_texts_are_the_second_texts_of_other_pairs_of_their_form(sizes):
    law, forms = Counter(), second_texts(sizes)
    for texts in forms.values():
        for own in {document for document, _ in texts}:
            others = {text: often for text, often in texts.items() if text[0] != own}
            factor = (texts.total() - sum(others.values())) / sum(others.values()) / sum(sizes)
            for text, often in others.items():
                law[text] += factor * often
    assert sum(law.values()) == pytest.approx(1)
    pairs = pairs_of(sizes)
    batch = drawn(pairs, 20_000 // len(pairs))
    foreign = batch["is_next"] == 0
    second = batch["ids"].gather(1, batch["segment"].argmax(1)[:, None])[foreign, 0].numpy() - FIRST
    owner = np.searchsorted(pairs.stream.document_ends, second, side="right")
    begins = np.concatenate(([0], pairs.stream.document_ends[:-1]))
    counts = Counter(zip(owner.tolist(), (second - begins[owner]).tolist(), strict=True))
    assert set(counts) <= set(law)
    expected = np.array(list(law.values())) * len(second)
    assert stats.chisquare([counts[text] for text in law], expected / expected.sum() * len(second)).pvalue > 1e-3


@pytest.mark.parametrize(("copies", "faithful", "period"), [(3, None, 3), (None, "bert", 10), (None, None, None)])
def test_pairs_are_repeated_with_the_noise(copies, faithful, period):
    model = MaskedLanguageModel(text_encoder("bert", SPEC), SPEC, static_copies=copies, faithful=faithful, next_sentence=True)
    made = pairs_of(LONG)
    pairs = model.views()(SimpleNamespace(stream=made.stream, num=len(made), isolate_documents=False), 7)
    batches = [pairs.__getitems__([(epoch, index) for index in range(len(pairs))]) for epoch in range(12)]
    for epoch, batch in enumerate(batches):
        assert (batch["epoch"] == epoch).all()
        same = [other for other in range(12) if torch.equal(batches[other]["ids"], batch["ids"])]
        assert same == [other for other in range(12) if (other - epoch) % (period or 12) == 0]


def test_a_pair_is_a_function_of_seed_epoch_and_number():
    pairs = pairs_of(LONG)
    batch = drawn(pairs, 2)
    again = pickle.loads(pickle.dumps(pairs)).__getitems__([(1, 5), (0, 3)])
    for row, place in ((0, len(pairs) + 5), (1, 3)):
        assert all(torch.equal(again[key][row], batch[key][place]) for key in batch if key != "corrupt")
    assert not torch.equal(batch["ids"][: len(pairs)], batch["ids"][len(pairs) :])


def test_the_objective_learns_both_tasks():
    model = MaskedLanguageModel(text_encoder("bert", SPEC), SPEC, next_sentence=True)
    assert MaskedLanguageModel(text_encoder("bert", SPEC), SPEC).views() is None
    pairs = pairs_of(LONG)
    pairs.stream.tokens = PIECES.start + pairs.stream.tokens % len(PIECES)  # a text whose order can be learned
    rows = model.views()(SimpleNamespace(stream=pairs.stream, num=len(pairs), isolate_documents=False), 0)
    batch = rows.__getitems__([(0, i) for i in range(32)])
    draw = Draw(0, batch["epoch"], batch["index"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    reports = []
    for _ in range(50):
        outcome = model(batch, draw)
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        reports.append(outcome.report)
    for name in ("masked_loss", "next_sentence_loss"):
        assert reports[-1][name] < 0.7 * reports[0][name], name
    torch.testing.assert_close(outcome.loss.detach(), reports[-1]["masked_loss"] + reports[-1]["next_sentence_loss"])
    assert reports[-1]["next_sentence_accuracy"] > 0.8
    shown = model.texts(batch, draw)
    assert shown["next_sentence"].count("believed to follow") == 32
    assert "next_sentence" not in model.texts({key: batch[key] for key in ("ids", "epoch", "index")}, draw)


def test_noise_is_never_padding_nor_between_the_texts():
    pairs = pairs_of(SHORT)
    pairs.stream.tokens = PIECES.start + pairs.stream.tokens % len(PIECES)
    model, batch = MaskedLanguageModel(text_encoder("bert", SPEC), SPEC, next_sentence=True), drawn(pairs, 20)
    assert not batch["present"].all()
    noise = model.choose(batch["ids"], Draw(0, batch["epoch"], batch["index"]))
    assert noise.used_BK.any()
    assert (batch["ids"].gather(1, noise.place_BK)[noise.used_BK] >= PIECES.start).all()


def test_what_makes_no_pairs_is_refused():
    with pytest.raises(BadInput, match="text of two documents or more; the split 'train' has 1 .*document=paragraph"):
        pairs_of((500,))
    with pytest.raises(BadInput, match="has 1 "):
        pairs_of((500, 1, 0))
    with pytest.raises(BadInput, match="isolate_documents=true keeps apart"):
        SentencePairs(SimpleNamespace(isolate_documents=True), 0, SPEC.vocabulary, LENGTH)
    with pytest.raises(BadInput, match="start and an end token"):
        SentencePairs(SimpleNamespace(isolate_documents=False), 0, SimpleNamespace(start=None, end=1), LENGTH)
    with pytest.raises(BadInput, match="roberta has no second task"):
        MaskedLanguageModel(text_encoder("bert", SPEC), SPEC, faithful="roberta", next_sentence=True)
