"""Token noise: counts, shares and laws of the masks; a function of (seed, epoch, index) alone."""

import pytest
import torch
from conftest import CLS, MASK, PAD, PIECES, SEP, text_batch, text_encoder, text_spec
from scipy import stats

from errors import BadInput
from objectives.draw import Draw
from objectives.mlm import MaskedLanguageModel, fixed_mask
from objectives.objective import Batch
from objectives.token_noise import Noise, choose_tokens, choose_words, hide

SPEC = text_spec(block_length=64)


def mlm(**settings) -> MaskedLanguageModel:
    return MaskedLanguageModel(text_encoder("bert", SPEC), SPEC, **settings)


def draw_of(batch: Batch) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


def noisy(noise: Noise, length: int) -> torch.Tensor:
    """(B, L) bool; fails where a place is named twice."""
    counts = torch.zeros(len(noise.place_BK), length, dtype=torch.long)
    counts.scatter_add_(1, noise.place_BK, noise.used_BK.long())
    assert counts.max() <= 1
    return counts.bool()


def within_4_errors(hits: torch.Tensor, share: float) -> bool:
    return abs(hits.float().mean().item() - share) < 4 * (share * (1 - share) / hits.numel()) ** 0.5


@pytest.mark.parametrize("ratio", [0.15, 0.4])
def test_counts_are_exact_for_every_number_of_ordinary_tokens(ratio):
    length = 400  # at 190 tokens of 15 % and at 350, float32 would round otherwise than Python
    ids = torch.full((length, length), PAD)
    for row in range(length):
        ids[row, : row + 1] = PIECES[row % len(PIECES)]
    draw = Draw(0, torch.zeros(length, dtype=torch.long), torch.arange(length))
    model = mlm(mask_ratio=ratio)
    counts = noisy(model.choose(ids, draw), length).sum(1).tolist()
    assert counts == [round(ratio * num) for num in range(1, length + 1)]


def test_specials_and_padding_are_never_selected_nor_changed():
    batch = text_batch(500, 64)
    batch["ids"][:, 40:] = PAD
    batch["ids"][:, 20] = SEP
    batch["ids"][:, 21] = CLS
    for settings in ({}, {"whole_word": True}, {"faithful": "bert"}):
        model = mlm(**settings)
        noise = model.choose(batch["ids"], draw_of(batch))
        special = batch["ids"] < PIECES.start
        assert not (noisy(noise, 64) & special).any()
        seen = hide(draw_of(batch), batch["ids"], noise, MASK, model.random_ids())
        assert torch.equal(seen[special], batch["ids"][special])


@pytest.mark.parametrize("settings", [{}, {"whole_word": True}], ids=str)
def test_80_percent_masked_10_other_10_kept(settings):
    batch = text_batch(8000, 64)
    model = mlm(**settings)
    noise = model.choose(batch["ids"], draw_of(batch))
    seen = hide(draw_of(batch), batch["ids"], noise, MASK, model.random_ids())
    where = noisy(noise, 64)
    assert torch.equal(seen[~where], batch["ids"][~where])
    shown, truth = seen[where], batch["ids"][where]
    hit_by_chance = 0.1 / len(PIECES)
    assert within_4_errors(shown == MASK, 0.8)
    assert within_4_errors(shown == truth, 0.1 + hit_by_chance)
    assert within_4_errors((shown != MASK) & (shown != truth), 0.1 - hit_by_chance)


def test_replacements_are_ordinary_and_uniform():
    batch = text_batch(8000, 64)
    model = mlm()
    noise = model.choose(batch["ids"], draw_of(batch))
    seen = hide(draw_of(batch), batch["ids"], noise, MASK, model.random_ids(), masked=0.0, random=1.0)
    drawn = torch.bincount(seen[noisy(noise, 64)], minlength=PIECES.stop)
    assert drawn[: PIECES.start].sum() == 0
    assert stats.chisquare(drawn[PIECES.start :].numpy()).pvalue > 1e-3


def test_places_are_uniform():
    batch = text_batch(8000, 64)
    counts = noisy(mlm().choose(batch["ids"], draw_of(batch)), 64).sum(0)
    assert counts[0] == counts[-1] == 0
    assert stats.chisquare(counts[1:-1].numpy()).pvalue > 1e-3


def words_of(begins: list[bool], candidate: list[bool]) -> list[set[int]]:
    words: list[set[int]] = []
    for place, first in enumerate(begins):
        if first or not words:
            words.append(set())
        if candidate[place]:
            words[-1].add(place)
    return [word for word in words if word]


def test_whole_words_are_noise_as_a_whole_and_within_the_budget():
    batch, model = text_batch(500, 64), mlm(whole_word=True)
    where = noisy(model.choose(batch["ids"], draw_of(batch)), 64)
    begins, candidate = SPEC.vocabulary.begins_word[batch["ids"]], SPEC.vocabulary.ordinary[batch["ids"]]
    for row in range(500):
        chosen = set(where[row].nonzero().flatten().tolist())
        words = words_of(begins[row].tolist(), candidate[row].tolist())
        assert all(word <= chosen or not word & chosen for word in words)
        assert len(chosen) <= round(0.15 * 62)
        left = round(0.15 * 62) - len(chosen)
        assert any(len(word) > left for word in words if not word & chosen)  # else one more would have fitted
    assert where.sum(1).float().mean() > 0.8 * round(0.15 * 62)


def test_words_of_one_token_fill_the_budget_and_are_uniform_over_places():
    num, length = 8000, 20
    draw = Draw(0, torch.zeros(num, dtype=torch.long), torch.arange(num))
    every = torch.ones(num, length, dtype=torch.bool)
    where = noisy(choose_words(draw, every, every, torch.full((num,), 3), 3), length)
    assert (where.sum(1) == 3).all()
    assert stats.chisquare(where.sum(0).numpy()).pvalue > 1e-3
    both = (where[:, -2] & where[:, -1]).float().mean().item()  # the last two words are chosen independently
    assert abs(both - 3 * 2 / (20 * 19)) < 4 * (0.016 / num) ** 0.5


def test_faithful_bert_counts_specials_caps_at_20_and_draws_from_the_whole_vocabulary():
    for length, count in ((64, 10), (16, 2), (512, 20)):
        batch, model = text_batch(50, length), mlm(faithful="bert")
        assert (noisy(model.choose(batch["ids"], draw_of(batch)), length).sum(1) == count).all()
    batch = text_batch(2000, 64)
    noise = model.choose(batch["ids"], draw_of(batch))
    seen = hide(draw_of(batch), batch["ids"], noise, MASK, model.random_ids(), masked=0.0, random=1.0)
    drawn = torch.bincount(seen[noisy(noise, 64)], minlength=PIECES.stop)
    assert stats.chisquare(drawn.numpy()).pvalue > 1e-3
    assert model.static_copies == 10


def test_faithful_roberta_hides_any_token_with_a_random_rounding_and_draws_ordinary_ones():
    batch, model = text_batch(8000, 62), mlm(faithful="roberta")
    noise = model.choose(batch["ids"], draw_of(batch))
    where = noisy(noise, 62)
    assert stats.chisquare(where.sum(0).numpy()).pvalue > 1e-3  # <s> and </s> included
    count = where.sum(1)
    assert set(count.tolist()) == {9, 10}
    assert within_4_errors(count == 10, 0.3)
    assert model.random_ids().tolist() == list(PIECES)


@pytest.mark.parametrize("original", ["bert", "roberta"])
def test_originals_count_and_hide_what_is_no_padding(original, monkeypatch):
    """In rows of n tokens 0.15 n are noise, rounded as the authors do, however long the rows are that they are padded to."""
    batch, num_tokens = text_batch(400, 64), torch.tensor([64, 33, 24, 7]).repeat(100)
    batch["present"] = torch.arange(64) < num_tokens[:, None]
    batch["ids"] = batch["ids"].where(batch["present"], PAD)
    model, chosen = mlm(faithful=original), []
    monkeypatch.setattr("objectives.mlm.choose_tokens", lambda *given: chosen.append(choose_tokens(*given)) or chosen[0])
    model(batch, draw_of(batch))
    where = noisy(chosen[0], 64)
    assert not (where & ~batch["present"]).any()
    for num in num_tokens.unique().tolist():
        counts = where[num_tokens == num].sum(1)
        if original == "bert":
            assert (counts == min(20, max(1, round(0.15 * num)))).all()
        else:
            assert set(counts.tolist()) == {int(0.15 * num), int(0.15 * num) + 1}


def test_static_noise_repeats_after_its_copies():
    model = mlm(static_copies=3)
    seen = []
    model.encoder.net.register_forward_pre_hook(lambda _, __, named: seen.append(named["input_ids"]), with_kwargs=True)
    for epoch in range(7):
        batch = text_batch(8, 64, epoch=epoch)
        model(batch, draw_of(batch))
    assert all(torch.equal(seen[epoch], seen[epoch % 3]) for epoch in range(7))
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.parametrize("settings", [{}, {"whole_word": True}, {"faithful": "roberta"}], ids=str)
def test_noise_differs_between_samples_and_epochs_and_not_with_the_batch(settings):
    model, batch = mlm(**settings), text_batch(50, 64)
    batch["ids"] = batch["ids"][:1].expand(50, -1)
    first = noisy(model.choose(batch["ids"], draw_of(batch)), 64)
    later = noisy(model.choose(batch["ids"], Draw(0, batch["epoch"] + 1, batch["index"])), 64)
    assert len(first.unique(dim=0)) >= 48  # of whole words there are few combinations
    assert (first == later).all(1).sum() <= 2
    order = torch.arange(49, -1, -3)
    some = noisy(model.choose(batch["ids"][order], Draw(0, batch["epoch"][order], batch["index"][order])), 64)
    assert torch.equal(some, first[order])


def test_the_fixed_mask_hides_15_percent_of_any_run_and_epoch_alike():
    batch, model = text_batch(20, 64), mlm(mask_ratio=0.4)
    noise, seen = fixed_mask(model.tables, batch)
    where = noisy(noise, 64)
    assert (where.sum(1) == round(0.15 * 62)).all()
    assert (seen[where] == MASK).all()
    assert torch.equal(seen, fixed_mask(mlm().tables, {**batch, "epoch": batch["epoch"] + 5})[1])


def test_a_row_without_ordinary_tokens_adds_nothing():
    batch, model = text_batch(4, 16), mlm()
    batch["ids"][:] = SEP
    outcome = model(batch, draw_of(batch))
    assert outcome.loss.item() == 0
    outcome.loss.backward()
    assert all((weight.grad == 0).all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("settings", [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"faithful": "brt"}], ids=str)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(BadInput, match=next(iter(settings))):
        mlm(**settings)
