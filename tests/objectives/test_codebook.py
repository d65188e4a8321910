"""The codebook: entries by a hand loop, gradients straight through, restarts, and pictures from whole numbers."""

import numpy as np
import pytest
import torch
from made_vision import OBJECTIVES, batch_of, encoder_of, made_data
from torch import Tensor

from errors import BadInput
from models.encoder import Features
from objectives.codebook import UNUSED, Codebook
from objectives.draw import Draw


def codebook_of(num_codes: int = 6) -> Codebook:
    torch.manual_seed(0)
    return Codebook(encoder_of("tiny", made_data().spec), channels=5, side=3, num_codes=num_codes, width=4)


def features_of(num: int, tokens: int = 9, seed: int = 1, shared: float = 0.0) -> Features:
    tokens_BND = shared + torch.randn(num, tokens, 32, generator=torch.Generator().manual_seed(seed))
    return Features(tokens_BND, tokens_BND.mean(dim=1), tokens_BND[:, :0])


def draw_of(num: int) -> Draw:
    return Draw(0, torch.zeros(num, dtype=torch.long), torch.arange(num))


def test_every_token_becomes_its_nearest_entry():
    codebook, features = codebook_of(), features_of(3)
    tokens = codebook.tokens(features)
    torch.testing.assert_close(tokens.norm(dim=-1), torch.ones(3, 9))
    brute = torch.cdist(tokens, codebook.codes_KZ.expand(3, -1, -1)).argmin(dim=-1)
    assert torch.equal(codebook.ids(features), brute)
    code = codebook(features, draw_of(3))
    torch.testing.assert_close(code.grid_BWSS, codebook.grid(brute))
    expected = (tokens - codebook.codes_KZ[brute]).square().sum(dim=(1, 2)) * 10
    torch.testing.assert_close(code.nats_B, expected)
    share = torch.bincount(brute.flatten(), minlength=6) / 27
    assert code.report["perplexity"].item() == pytest.approx(np.exp(-(share[share > 0] * share[share > 0].log()).sum().item()))


def test_in_half_precision_the_nearest_entry_is_still_the_nearest():
    codebook = codebook_of(num_codes=200)
    tokens = torch.nn.functional.normalize(torch.randn(16, 64, 4, generator=torch.Generator().manual_seed(2)), dim=-1)
    brute = torch.cdist(tokens.double(), codebook.codes_KZ.double().expand(16, -1, -1)).argmin(dim=-1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codebook.nearest(tokens), brute)


def test_gradients_pass_straight_through():
    codebook, features = codebook_of(), features_of(2)
    tokens: list[Tensor] = []
    codebook.tokens = lambda _: tokens[0]
    tokens.append(torch.nn.functional.normalize(torch.randn(2, 9, 4), dim=-1).requires_grad_())
    grid = codebook(features, draw_of(2)).grid_BWSS
    weights = torch.randn_like(grid)
    (grid * weights).sum().backward()
    expected = torch.einsum("bwij,wz->bijz", weights, codebook.spread.weight).flatten(1, 2)  # as if there were no codebook
    torch.testing.assert_close(tokens[0].grad, expected)


def test_entries_are_moving_averages_of_the_tokens_that_chose_them():
    codebook = codebook_of(4)
    used, sums = np.full(4, 3.0), codebook.codes_KZ.double().numpy() * 3
    codebook.used_K.fill_(3.0)
    codebook.sum_KZ.copy_(3 * codebook.codes_KZ)
    for step in range(3):
        features = features_of(8, seed=step)
        tokens, ids = codebook.tokens(features).detach().double(), codebook.ids(features)
        codebook(features, draw_of(8))
        codebook.after_step()
        for entry in range(4):
            chosen = tokens[ids == entry]
            used[entry] = 0.95 * used[entry] + 0.05 * len(chosen)
            sums[entry] = 0.95 * sums[entry] + 0.05 * chosen.sum(dim=0).numpy()
        expected = torch.tensor(sums / np.linalg.norm(sums, axis=1, keepdims=True)).float()
        assert used.min() > UNUSED * used.mean()  # none of them begins again
        torch.testing.assert_close(codebook.codes_KZ, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(codebook.used_K, used, rtol=1e-4)


def test_entries_that_nobody_chooses_begin_again_at_tokens():
    codebook = codebook_of(6)
    features = features_of(2, shared=3.0)  # all tokens to one side
    codebook.codes_KZ[3:] = torch.nn.functional.normalize(-codebook.tokens(features).mean(dim=(0, 1)).detach(), dim=0)
    codebook.used_K[:3], codebook.sum_KZ[:] = 5.0, 5 * codebook.codes_KZ
    tokens = codebook.tokens(features).detach().flatten(0, 1)
    chosen = codebook.ids(features).unique()
    codebook(features, draw_of(2))
    codebook.after_step()
    near = torch.cdist(codebook.codes_KZ[3:], tokens).min(dim=1).values < 1e-3
    assert chosen.max() < 3
    assert near.tolist() == [True, True, False]  # two pictures give two tokens; the third waits
    assert (codebook.used_K[3:5] > UNUSED * codebook.used_K.mean()).all()


def test_nothing_moves_without_a_gradient():
    codebook = codebook_of()
    before = {name: tensor.clone() for name, tensor in codebook.state_dict().items()}
    with torch.no_grad():
        codebook(features_of(2), draw_of(2))
    codebook.after_step()
    assert all(torch.equal(before[name], tensor) for name, tensor in codebook.state_dict().items())


def test_a_tokenizer_is_learned():
    data = made_data(16, batch_size=16)
    objective = OBJECTIVES["vector_quantised"](encoder_of("tiny", data.spec), data.spec)
    optimizer = torch.optim.Adam(objective.parameters(), lr=3e-3)
    errors = []
    for batch in data.train_loader(objective.views(), 0, 60):
        outcome = objective(batch, Draw(0, batch["epoch"], batch["index"]))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        objective.after_step(0.0)
        errors.append(outcome.report["squared_error"].item())
    assert np.mean(errors[-5:]) < 0.6 * np.mean(errors[:5])
    assert outcome.report["perplexity"] > 4  # of 12
    batch = batch_of(objective, data)
    features = objective.encoder(objective.encoder.normalise(batch["views"][:, 0].float() / 255))
    ids = objective.bottleneck.ids(features)
    again = objective.decoder(objective.bottleneck.grid(ids))
    assert ids.shape == (16, 16)
    assert (again - batch["views"][:, 0] / 255).square().mean() < 2 * np.mean(errors[-5:])


def test_a_codebook_of_one_entry_is_refused():
    with pytest.raises(BadInput, match="num_codes must be 2 or more"):
        codebook_of(1)
