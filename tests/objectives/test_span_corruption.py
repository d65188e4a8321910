"""T5's noise: lengths, laws and round trips, for every denoiser of UL2's mixture."""

import itertools
from collections import Counter

import pytest
import torch
from conftest import SEP, text_batch, text_encoder, text_spec
from scipy import stats
from torch import nn

from errors import BadInput
from objectives.draw import Draw
from objectives.span_corruption import SpanCorruption
from objectives.span_noise import Denoiser, composition, raw_length, split_by_mask

T5 = Denoiser(0.15, 3.0)
UL2 = [Denoiser(*law) for law in ((0.15, 3.0), (0.15, 8.0), (0.5, 3.0), (0.5, 8.0), (0.15, 64.0), (0.5, 64.0), (0.25, None))]
PAD, END, FIRST_SENTINEL = 0, 3, 999


def draw_of(num: int, epoch: int = 0) -> Draw:
    return Draw(0, torch.full((num,), epoch), torch.arange(num))


def runs(mask: list[bool]) -> list[tuple[bool, int]]:
    return [(noisy, len(list(group))) for noisy, group in itertools.groupby(mask)]


@pytest.mark.parametrize(
    ("inputs", "raw", "targets"), [(114, 126, 26), (128, 141, 29), (256, 284, 58), (512, 568, 114), (1024, 1137, 229)]
)
def test_the_solver_equals_t5s(inputs, raw, targets):
    assert raw_length(T5, inputs) == raw
    assert T5.lengths(raw) == (inputs, targets)
    mask = T5.mask(draw_of(50), raw, "t5", roll=False)
    ids = torch.full((50, raw), 7)
    sentinels = torch.arange(FIRST_SENTINEL, FIRST_SENTINEL - 200, -1)
    _, num_inputs, _, num_targets = split_by_mask(ids, mask, sentinels, END, PAD, inputs, targets)
    assert (num_inputs == inputs).all()
    assert (num_targets == targets).all()


@pytest.mark.parametrize(
    ("denoiser", "raw", "targets"),
    zip(UL2[:6], (568, 588, 767, 908, 600, 1007), (114, 100, 513, 512, 92, 513), strict=True),
    ids=str,
)
def test_the_solver_gives_ul2s_lengths(denoiser, raw, targets):
    assert raw_length(denoiser, 512) == raw
    assert denoiser.lengths(raw)[1] == targets


def test_compositions_are_uniform():
    total, parts, num = 7, 3, 30_000
    drawn = Counter(map(tuple, composition(draw_of(num), "c", total, parts).tolist()))
    possible = [law for law in itertools.product(range(1, total), repeat=parts) if sum(law) == total]
    assert set(drawn) == set(possible)
    assert stats.chisquare([drawn[law] for law in possible]).pvalue > 1e-3
    assert composition(draw_of(3), "c", 5, 1).tolist() == [[5]] * 3
    assert composition(draw_of(3), "c", 1, 1).tolist() == [[1]] * 3
    assert composition(draw_of(3), "c", 4, 4).tolist() == [[1, 1, 1, 1]] * 3


@pytest.mark.parametrize("denoiser", UL2[:6], ids=str)
def test_masks_have_the_stated_counts(denoiser):
    num_noise, num_spans = denoiser.counts(150)
    for roll in (False, True):
        mask = denoiser.mask(draw_of(200), 150, "d", roll)
        assert (mask.sum(1) == num_noise).all()
        spans = [sum(noisy for noisy, _ in runs(row)) for row in mask.tolist()]
        assert set(spans) <= ({num_spans, num_spans + 1} if roll else {num_spans})


def test_places_are_uniform_with_roll_and_biased_without():
    num, raw = 6000, 126
    counts = T5.mask(draw_of(num), raw, "t5", roll=True).sum(0)
    share = T5.counts(raw)[0] / raw
    # neighbours go together within a row, not between rows: each place for itself is binomial
    errors = (counts / num - share) / (share * (1 - share) / num) ** 0.5
    assert errors.abs().max() < 4.5
    biased = T5.mask(draw_of(num), raw, "t5", roll=False).float().mean(0)
    assert biased[0] == 0
    assert biased[-1] == 1
    long = T5.mask(draw_of(num), 568, "t5", roll=False).float().mean(0)
    assert 0.25 < long[-5] < 0.31  # measured on the authors' algorithm: 0.28


def test_a_suffix_is_uniform_in_length_with_the_stated_mean():
    mask = UL2[-1].mask(draw_of(20_000), 40, "suffix", roll=True)
    assert all(runs(row)[-1] == (True, sum(row)) for row in mask[:200].tolist())
    lengths = torch.bincount(mask.sum(1), minlength=21)
    assert lengths[0] == lengths[20:].sum() == 0
    assert stats.chisquare(lengths[1:20].numpy()).pvalue > 1e-3


def restored(inputs: list[int], targets: list[int]) -> list[int]:
    """The original row, by reading both as a person would."""
    assert inputs[-1] == targets[-1] == END
    hidden: dict[int, list[int]] = {}
    for token in targets[:-1]:
        if token > 900:
            assert token == FIRST_SENTINEL - len(hidden)  # descending, each once
            hidden[token] = []
        else:
            hidden[max(hidden) - len(hidden) + 1].append(token)
    assert all(hidden.values())
    assert [token for token in inputs if token > 900] == list(hidden)
    row = []
    for token in inputs[:-1]:
        row += hidden.get(token, [token])
    return row


@pytest.mark.parametrize("roll", [False, True])
@pytest.mark.parametrize("denoiser", UL2, ids=str)
def test_inputs_and_targets_together_are_the_original_row(denoiser, roll):
    num, raw = 100, 90
    ids = torch.randint(0, 900, (num, raw), generator=torch.Generator().manual_seed(0))  # pad and end ids among them
    mask = denoiser.mask(draw_of(num), raw, "d", roll)
    sentinels = torch.arange(FIRST_SENTINEL, FIRST_SENTINEL - 60, -1)
    num_input, num_output = (length + roll for length in denoiser.lengths(raw))
    inputs, input_length, targets, target_length = split_by_mask(ids, mask, sentinels, END, PAD, num_input, num_output)
    assert inputs.shape == (num, num_input)
    assert targets.shape == (num, num_output)
    for row in range(num):
        given, wanted = inputs[row, : input_length[row]].tolist(), targets[row, : target_length[row]].tolist()
        assert restored(given, wanted) == ids[row].tolist()
        assert (inputs[row, input_length[row] :] == PAD).all()
        assert (targets[row, target_length[row] :] == PAD).all()


@pytest.mark.parametrize("raw", [2, 3, 5, 9])
@pytest.mark.parametrize("denoiser", UL2, ids=str)
def test_very_short_rows_work(denoiser, raw):
    mask = denoiser.mask(draw_of(20), raw, "d", roll=True)
    assert mask.any(1).all()
    assert not mask.all(1).any()


def span_corruption(spec, denoisers: list[Denoiser] | None = None, **settings) -> SpanCorruption:
    return SpanCorruption(text_encoder("t5", spec), spec, denoisers and [vars(law) for law in denoisers], **settings)


def test_sentinels_descend_from_the_last_id():
    spec = text_spec(block_length=40, num_sentinels=8)
    model, batch = span_corruption(spec), text_batch(20, 40)
    inputs, num_inputs, targets, num_targets = model.corrupt(batch["ids"], draw_of(20))
    for row in range(20):
        used = [token for token in targets[row].tolist() if token >= spec.vocabulary.size - 8]
        assert used == [spec.vocabulary.size - 1 - i for i in range(len(used))]
        assert inputs[row, num_inputs[row] - 1] == targets[row, num_targets[row] - 1] == SEP


def test_padding_is_no_target_and_told_by_length_not_by_id():
    """Rows of pad tokens only: every one that was a token is learned, and what follows the end is not."""
    spec = text_spec(block_length=40, num_sentinels=16)
    model, batch = span_corruption(spec, [T5, Denoiser(0.5, 8.0)]), text_batch(16, 40)
    batch["ids"][:] = PAD
    draw = draw_of(16)
    _, _, targets, num_targets = model.corrupt(batch["ids"], draw)
    num = model.predict(batch, draw)[2]
    assert num == num_targets.sum() < targets.numel()
    assert num > (targets != PAD).sum()


def test_a_mixture_draws_each_denoiser_equally_often_and_needs_the_longest_buffers():
    spec = text_spec(block_length=60, num_sentinels=32)
    model = span_corruption(spec, UL2, roll=False)
    assert model.num_input == max(law.lengths(60)[0] for law in UL2)
    assert model.num_output == max(law.lengths(60)[1] for law in UL2)
    which = draw_of(7000).integers("denoiser", len(UL2), 1)[:, 0]
    assert stats.chisquare(torch.bincount(which, minlength=len(UL2)).numpy()).pvalue > 1e-3
    _, num_inputs, _, _ = model.corrupt(text_batch(700, 60)["ids"], draw_of(700))
    for i, law in enumerate(UL2[:6]):
        assert (num_inputs[which[:700] == i] == law.lengths(60)[0]).all()
    outcome = model(text_batch(20, 60), draw_of(20))
    assert outcome.loss.isfinite()


def test_noise_differs_between_samples_and_epochs_and_not_with_the_batch():
    spec = text_spec(block_length=60, num_sentinels=32)
    model, ids = span_corruption(spec, UL2), text_batch(50, 60)["ids"]
    first, later = model.corrupt(ids, draw_of(50))[0], model.corrupt(ids, draw_of(50, epoch=1))[0]
    assert not (first == later).all(1).any()
    order = torch.arange(49, -1, -3)
    some = model.corrupt(ids[order], Draw(0, torch.zeros_like(order), order))[0]
    assert torch.equal(some, first[order])


@pytest.mark.parametrize("roll", [False, True])
def test_too_few_sentinels_name_the_setting_and_the_number_that_is_enough(roll):
    spans = T5.counts(141)[1] + roll
    span_corruption(text_spec(block_length=141, num_sentinels=spans), roll=roll)
    with pytest.raises(BadInput, match=f"datamodule.num_sentinels={spans} or more"):
        span_corruption(text_spec(block_length=141, num_sentinels=spans - 1), roll=roll)
    with pytest.raises(BadInput, match="datamodule.num_sentinels"):
        span_corruption(text_spec(block_length=141), roll=roll)


def test_a_backbone_without_decoder_is_refused():
    spec = text_spec(block_length=40, num_sentinels=16)
    with pytest.raises(BadInput, match="encoder-decoder.*t5_mini"):
        SpanCorruption(text_encoder("bert", spec), spec)


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_decoder_has_the_dropout_that_is_asked_for(rate):
    spec = text_spec(num_sentinels=16)
    model, batch = SpanCorruption(text_encoder("t5", spec, dropout=rate), spec), text_batch(8)
    for net in (model.encoder.net, model.decoder):
        assert {part.p for part in net.modules() if isinstance(part, nn.Dropout)} == {rate}
    model.encoder.eval()
    first, second = (model(batch, draw_of(8)).loss for _ in range(2))
    assert torch.equal(first, second) == (rate == 0)
