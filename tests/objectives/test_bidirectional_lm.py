"""The bidirectional language model: neither direction sees what it predicts, and both are plain LSTMs."""

import pytest
import torch
import torch.nn.functional as F
from conftest import PIECES, jitter, text_batch, text_spec
from torch import Tensor, nn

from models.bilstm import BiLSTM
from objectives.bidirectional_lm import BidirectionalLanguageModel
from objectives.draw import Draw
from training.flops import forward_flops, sample_flops

SPEC = text_spec()


def model_of(depth: int = 2, **settings) -> BidirectionalLanguageModel:
    torch.manual_seed(0)
    model = BidirectionalLanguageModel(BiLSTM(SPEC, width=24, depth=depth, **settings), SPEC)
    jitter(model)
    return model


def draw_of(batch: dict[str, Tensor]) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


def padded_batch() -> dict[str, Tensor]:
    batch = text_batch()
    batch["present"] = torch.arange(16) < torch.tensor([16, 16, 12, 9, 16, 5])[:, None]
    batch["ids"][~batch["present"]] = 0
    return batch


def lstm_by_hand(lstm: nn.LSTM, given: list[Tensor]) -> list[Tensor]:
    """Hochreiter and Schmidhuber 1997, with forget gates; one row, step by step."""
    hidden = cell = torch.zeros(lstm.hidden_size, dtype=given[0].dtype)
    made = []
    for vector in given:
        gates = lstm.weight_ih_l0 @ vector + lstm.bias_ih_l0 + lstm.weight_hh_l0 @ hidden + lstm.bias_hh_l0
        enter, forget, new, leave = gates.chunk(4)
        cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
        hidden = leave.sigmoid() * cell.tanh()
        made.append(hidden)
    return made


def stack_by_hand(layers: list[nn.LSTM], given: list[Tensor]) -> list[Tensor]:
    for number, lstm in enumerate(layers):
        made = lstm_by_hand(lstm, given)
        given = [a + b for a, b in zip(made, given, strict=True)] if number else made
    return given


@pytest.mark.parametrize("make_batch", [text_batch, padded_batch])
def test_tokens_loss_and_gradient_are_those_of_two_lstms_by_hand(make_batch):
    model, batch = model_of().double(), make_batch()
    present = batch.get("present", torch.ones(6, 16, dtype=torch.bool))
    table, net = model.encoder.embedding_VD, model.encoder.net
    tokens = model.encoder(model.encoder.inputs(batch)).tokens
    nats, num = {"ahead": 0.0, "behind": 0.0}, 0
    for row in range(6):
        ids = batch["ids"][row, present[row]]
        given = list(table[ids])
        ahead = stack_by_hand([layer.ahead for layer in net.layers], given)
        behind = stack_by_hand([layer.behind for layer in net.layers], given[::-1])[::-1]
        expected = torch.stack([torch.cat(pair) for pair in zip(ahead, behind, strict=True)])
        torch.testing.assert_close(tokens[row, : len(ids)], expected, rtol=1e-9, atol=1e-9)
        nats["ahead"] += F.cross_entropy(torch.stack(ahead[:-1]) @ table.T, ids[1:], reduction="sum")
        nats["behind"] += F.cross_entropy(torch.stack(behind[1:]) @ table.T, ids[:-1], reduction="sum")
        num += len(ids) - 1
    outcome = model(batch, draw_of(batch))
    expected = (nats["ahead"] + nats["behind"]) / (2 * num)
    torch.testing.assert_close(outcome.loss.double(), expected, rtol=1e-6, atol=0)
    weights = list(model.parameters())
    for mine, other in zip(torch.autograd.grad(outcome.loss, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)
    likelihood = model.likelihood(batch)
    assert (likelihood.kind, likelihood.num_targets) == ("bits_per_byte", num)
    torch.testing.assert_close(likelihood.nats.double(), nats["ahead"], rtol=1e-6, atol=0)


def test_no_direction_sees_what_it_predicts():
    model, batch = model_of(), text_batch(2)
    before = model.encoder(model.encoder.inputs(batch)).tokens
    for place in range(1, 15):
        ids = batch["ids"].clone()
        ids[:, place] = (ids[:, place] - PIECES.start + 1) % len(PIECES) + PIECES.start
        moved = (model.encoder(model.encoder.inputs({**batch, "ids": ids})).tokens - before).abs()
        ahead, behind = (half.amax((0, 2)) for half in moved.split(12, dim=-1))
        assert ahead[:place].max() == 0
        assert behind[place + 1 :].max() == 0
        assert (ahead[place : place + 2] > 0).all()
        assert (behind[place - 1 : place + 1] > 0).all()


def test_every_product_of_the_lstms_is_counted():
    model, batch = model_of(depth=2), text_batch(8)
    one_step = 2 * (4 * 12 * 12) * 2  # both matrices of one LSTM, a multiplication and an addition each
    forward = 16 * 2 * 2 * one_step
    assert forward_flops(model.encoder, batch) == forward
    output = 2 * 15 * 2 * 12 * SPEC.vocabulary.size
    assert sample_flops(model, batch, 8) == pytest.approx(3 * (forward + output), rel=0.01)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="has no fused LSTM to be counted")
def test_fused_lstms_are_counted_as_their_products_one_by_one_are(monkeypatch):
    model, batch = model_of(depth=2), text_batch(8)
    fused = sample_flops(model, batch, 8), forward_flops(model.encoder, batch)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # an LSTM is then taken to pieces that PyTorch's counter knows
    assert (sample_flops(model, batch, 8), forward_flops(model.encoder, batch)) == fused


def test_dropout_is_off_until_it_is_set():
    model, batch = model_of(), text_batch(2)
    first, second = (model(batch, draw_of(batch)).loss for _ in range(2))
    assert first == second
    model.encoder.set_drop_path(0.5)
    assert model(batch, draw_of(batch)).loss != first
    assert model.eval()(batch, draw_of(batch)).loss == first
