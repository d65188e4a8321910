"""SpanBERT: masks against a plain Python loop and against their stated law; the boundary objective's bookkeeping."""

import math

import pytest
import torch
from conftest import CLS, MASK, PAD, PIECES, SEP, text_batch, text_encoder, text_spec
from scipy import stats

from models.encoder import take
from objectives.draw import Draw
from objectives.span import MOST_TARGETS, SpanBERT, boundaries
from objectives.token_noise import Noise, choose_spans, hide, span_lengths

SPEC = text_spec(block_length=64)


def draw_of(num: int, epoch: int = 0) -> Draw:
    return Draw(0, torch.full((num,), epoch), torch.arange(num))


def span_bert(**settings) -> SpanBERT:
    return SpanBERT(text_encoder("bert", SPEC), SPEC, **settings)


def spans_of(noise: Noise) -> list[dict[int, list[int]]]:
    """Of each row: span number -> its places."""
    rows = []
    for places, used, groups in zip(noise.place_BK.tolist(), noise.used_BK.tolist(), noise.group_BK.tolist(), strict=True):
        spans: dict[int, list[int]] = {}
        for place, really, group in zip(places, used, groups, strict=True):
            if really:
                spans.setdefault(group, []).append(place)
        rows.append(spans)
    return rows


def test_lengths_follow_the_truncated_geometric_law():
    num, p = 40_000, 0.2
    lengths = span_lengths(draw_of(num), 1, p, 10).flatten()
    law = [p * (1 - p) ** (length - 1) for length in range(1, 11)]
    law = [share / sum(law) for share in law]
    mean = sum(length * share for length, share in enumerate(law, 1))
    assert mean == pytest.approx(3.797, abs=5e-4)
    counts = torch.bincount(lengths, minlength=12)
    assert counts[0] == counts[11] == 0
    assert stats.chisquare(counts[1:11].numpy(), [num * share for share in law]).pvalue > 1e-3
    assert abs(lengths.float().mean().item() - mean) < 4 * lengths.float().std().item() / num**0.5


def by_hand(
    candidate: list[bool], begins: list[bool], budget: int, lengths: list[int], anchors: list[float]
) -> dict[int, list]:
    """The authors' loop: a free anchor, back to its word's start, then word after word."""
    free, spans = list(candidate), {}
    starts = [begins[i] or i == 0 or not candidate[i] or not candidate[i - 1] for i in range(len(free))]
    for number, (length, anchor) in enumerate(zip(lengths, anchors, strict=True)):
        places = [i for i, is_free in enumerate(free) if is_free]
        if not budget or not places:
            break
        place = places[int(anchor * len(places))]
        while not starts[place]:
            place -= 1
        words = 0
        while place < len(free) and free[place] and budget:
            words += starts[place]
            if words > length:
                break
            spans.setdefault(number, []).append(place)
            free[place], budget, place = False, budget - 1, place + 1
    return spans


def test_masks_equal_those_of_a_plain_loop():
    num, length = 300, 64
    batch = text_batch(num, length)
    batch["ids"][:, 30], batch["ids"][:, 31], batch["ids"][: num // 2, 50:] = SEP, CLS, PAD
    candidate = torch.from_numpy(SPEC.vocabulary.ordinary)[batch["ids"]]
    begins = torch.from_numpy(SPEC.vocabulary.begins_word)[batch["ids"]]
    draw, most = draw_of(num), 15
    count = torch.arange(num) % most + 1
    noise = choose_spans(draw, candidate, begins, count, most, 0.2, 10)
    lengths, anchors = span_lengths(draw, most, 0.2, 10), draw.uniform("anchor", most)
    for row, spans in enumerate(spans_of(noise)):
        rows = (candidate, begins, count, lengths, anchors)
        assert spans == by_hand(*(values[row].tolist() for values in rows)), row


def test_counts_are_ceil_of_the_ratio_and_specials_untouched():
    length = 220  # 15 % of 100, 180 and 200 tokens are whole numbers only outside of float32
    ids = torch.full((length, length), SEP)
    for row in range(length):
        ids[row, : row + 1] = torch.randint(PIECES.start, PIECES.stop, (row + 1,), generator=torch.Generator().manual_seed(row))
    model, draw = span_bert(), draw_of(length)
    noise = model.choose(ids, draw)
    assert noise.used_BK.sum(1).tolist() == [math.ceil(0.15 * num) for num in range(1, length + 1)]
    seen = hide(draw, ids, noise, MASK, model.tables.ordinary_ids)
    assert torch.equal(seen == SEP, ids == SEP)
    assert not (seen[ids != SEP] < MASK).any()


def test_spans_begin_at_word_starts():
    batch, model = text_batch(500, 64), span_bert()
    begins = SPEC.vocabulary.begins_word[batch["ids"]]
    begins[:, 1] = True  # after [CLS]
    for row, spans in enumerate(spans_of(model.choose(batch["ids"], draw_of(500)))):
        for places in spans.values():
            assert begins[row, places[0]]
            assert places == list(range(places[0], places[0] + len(places)))


def test_long_rows_of_one_piece_words_have_the_law_of_the_lengths():
    """The first span of a row meets neither another nor the budget, and hardly ever the end of the row."""
    num, length = 3000, 500
    every = torch.ones(num, length, dtype=torch.bool)
    noise = choose_spans(draw_of(num), every, every, torch.full((num,), 10), 10, 0.2, 10)
    first = torch.tensor([len(spans[0]) for spans in spans_of(noise)])
    expected = [0.2 * 0.8 ** (length - 1) / (1 - 0.8**10) * num for length in range(1, 11)]
    assert stats.chisquare(torch.bincount(first, minlength=11)[1:].numpy(), expected).pvalue > 1e-3


def test_noise_is_uniform_over_places_but_for_the_edges():
    num, length = 6000, 64
    every = torch.ones(num, length, dtype=torch.bool)
    noise = choose_spans(draw_of(num), every, every, torch.full((num,), 10), 10, 0.2, 10)
    counts = torch.bincount(noise.place_BK.flatten(), minlength=64).float()[10:]  # a span reaches to its right only
    assert (counts / counts.mean() - 1).abs().max() < 0.2


def test_one_draw_decides_for_a_whole_span():
    batch, model, draw = text_batch(8000, 64), span_bert(), draw_of(8000)
    noise = model.choose(batch["ids"], draw)
    seen = hide(draw, batch["ids"], noise, MASK, model.tables.ordinary_ids)
    kinds = {"masked": 0, "kept": 0, "other": 0}
    for row, spans in enumerate(spans_of(noise)):
        for places in spans.values():
            if len(places) < 4:  # shorter ones can be kept by chance
                continue
            shown, truth = seen[row, places], batch["ids"][row, places]
            if (shown == MASK).all():
                kinds["masked"] += 1
            elif torch.equal(shown, truth):
                kinds["kept"] += 1
            else:
                assert not (shown == MASK).any()
                kinds["other"] += 1
    total = sum(kinds.values())
    for kind, share in (("masked", 0.8), ("kept", 0.1), ("other", 0.1)):
        assert abs(kinds[kind] / total - share) < 4 * (share * (1 - share) / total) ** 0.5, kinds


def test_masks_differ_between_samples_and_epochs_and_not_with_the_batch():
    model, batch = span_bert(), text_batch(50, 64)
    noisy = [set(noise) for noise in model.choose(batch["ids"], draw_of(50)).place_BK.tolist()]
    later = [set(noise) for noise in model.choose(batch["ids"], draw_of(50, epoch=1)).place_BK.tolist()]
    assert len({frozenset(row) for row in noisy}) > 45
    assert sum(a == b for a, b in zip(noisy, later, strict=True)) < 5
    order = torch.arange(49, -1, -3)
    some = model.choose(batch["ids"][order], Draw(0, torch.zeros_like(order), order)).place_BK.tolist()
    assert [set(row) for row in some] == [noisy[i] for i in order.tolist()]


def noise_at(rows: list[list[int]], num_places: int) -> Noise:
    """Noise at these places; rows with fewer fill up with others, as drawn ones do."""
    place = torch.tensor([(row + [i for i in range(48) if i not in row])[:num_places] for row in rows])
    return Noise.of(place, torch.arange(num_places) < torch.tensor([[len(row)] for row in rows]))


def test_boundaries_equal_those_of_a_plain_loop():
    num, length = 400, 48
    batch, model = text_batch(num, length), span_bert(mask_ratio=0.4)
    batch["ids"][: num // 2, 0] = batch["ids"][: num // 2, -1] = PIECES[0]  # so that spans reach the edges
    noise = model.choose(batch["ids"], draw_of(num))
    around = boundaries(noise, length)
    left, right, inside, used = around.left_BK, around.right_BK, around.inside_BK, around.used_BK
    for row in range(num):
        noisy = set(noise.place_BK[row, noise.used_BK[row]].tolist())
        for k, place in enumerate(noise.place_BK[row].tolist()):
            if not noise.used_BK[row, k]:
                assert not used[row, k]
                continue
            before = after = place
            while before in noisy:
                before -= 1
            while after in noisy:
                after += 1
            assert used[row, k] == (before >= 0 and after < length and place - before <= MOST_TARGETS)
            if used[row, k]:
                assert (left[row, k], right[row, k], inside[row, k]) == (before, after, place - before - 1)


def test_no_boundary_targets_at_edges_or_beyond_the_15th_token():
    noise = noise_at([list(range(20, 38)), [0, 1, 2, 10], [46, 47], [5, 6]], 18)
    around = boundaries(noise, 48)
    left, right, inside, used = around.left_BK, around.right_BK, around.inside_BK, around.used_BK
    assert used.sum(1).tolist() == [15, 1, 0, 2]
    assert used[0].tolist() == [True] * 15 + [False] * 3
    assert inside[0, :15].tolist() == list(range(15))
    assert (left[0, :15] == 19).all()
    assert (right[0, :15] == 38).all()
    assert min(left.min(), inside.min()) >= 0
    assert right.max() < 48


def test_the_boundary_loss_reads_only_the_two_tokens_around_a_span(monkeypatch):
    model, batch = span_bert(), text_batch(1, 48)
    hidden = torch.randn(1, 48, 32, requires_grad=True)
    monkeypatch.setattr(model, "choose", lambda *_: noise_at([[20, 21, 22]], 3))
    monkeypatch.setattr(model.encoder, "at", lambda _, place_BK: take(hidden, place_BK))

    def read() -> list[int]:
        (grad,) = torch.autograd.grad(model(batch, draw_of(1)).loss, hidden)
        return grad.abs().sum(-1).nonzero()[:, 1].tolist()

    assert read() == [19, 20, 21, 22, 23]
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda *rest: (predict(*rest)[0] * 0, *predict(*rest)[1:]))  # the boundary alone
    assert read() == [19, 23]


def test_the_loss_is_the_sum_of_both_and_reaches_every_weight():
    model, batch = span_bert(), text_batch(8, 64)
    outcome = model(batch, Draw(0, batch["epoch"], batch["index"]))
    torch.testing.assert_close(outcome.loss.detach(), outcome.report["masked_loss"] + outcome.report["boundary_loss"])
    outcome.loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert "boundary_loss" not in span_bert(boundary=False)(batch, Draw(0, batch["epoch"], batch["index"])).report
