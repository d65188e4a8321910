"""MAE: the masks by their statistics, the pixel bookkeeping by round trips."""

import math

import pytest
import torch
from conftest import image_batch
from scipy import stats

from errors import BadInput
from objectives.draw import Draw
from objectives.mae import MaskedAutoencoder, patchify, unpatchify


@pytest.fixture
def mae(vit, spec) -> MaskedAutoencoder:
    return MaskedAutoencoder(vit, spec, decoder_width=32, decoder_depth=1, decoder_heads=2)


def test_masks_have_a_fixed_count_and_are_uniform_over_positions(mae):
    num = 6000
    visible, hidden = mae.split(Draw(0, torch.zeros(num, dtype=torch.long), torch.arange(num)))
    assert visible.shape == (num, 16)
    assert hidden.shape == (num, 48)
    assert torch.equal(torch.cat([visible, hidden], 1).sort(1).values, torch.arange(64).expand(num, 64))
    counts = torch.bincount(hidden.flatten(), minlength=64).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3


def test_masks_differ_between_samples_and_epochs(mae):
    index = torch.arange(50)
    first = mae.split(Draw(0, torch.zeros(50, dtype=torch.long), index))[1].sort(1).values
    second = mae.split(Draw(0, torch.ones(50, dtype=torch.long), index))[1].sort(1).values
    assert len(first.unique(dim=0)) == 50
    assert not (first == second).all(1).any()


def test_patchify_and_back():
    images = torch.randn(3, 3, 32, 32)
    assert torch.equal(unpatchify(patchify(images, 4), 4, 3), images)
    assert torch.equal(patchify(images, 4)[1, 9].view(4, 4, 3), images[1, :, 4:8, 4:8].permute(1, 2, 0))


def test_target_is_each_patchs_own_standardisation(mae):
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    hidden = torch.tensor([[0, 5, 9], [60, 2 * 8 + 3, 7]])
    target = mae.target(images, hidden)
    pixels = images[1, :, 8:12, 12:16].permute(1, 2, 0).flatten()
    expected = (pixels - pixels.mean()) / (pixels.var(unbiased=True) + 1e-6) ** 0.5
    torch.testing.assert_close(target[1, 1], expected)


def test_hidden_pixels_never_reach_the_prediction(mae):
    mae.eval()
    images = torch.randn(2, 3, 32, 32)
    draw = Draw(0, torch.zeros(2, dtype=torch.long), torch.arange(2))
    visible, hidden = mae.split(draw)
    pixels = patchify(images, 4)
    changed = unpatchify(pixels.scatter(1, hidden.unsqueeze(-1).expand(-1, -1, 48), 7.0), 4, 3)
    torch.testing.assert_close(mae.reconstruct(images, visible, hidden), mae.reconstruct(changed, visible, hidden))


def test_the_loss_counts_hidden_patches_only_and_reaches_every_weight(mae):
    batch = image_batch(4, views=1)
    draw = Draw(0, batch["epoch"], batch["index"])
    loss = mae(batch, draw).loss
    images = mae.encoder.normalise(batch["views"][:, 0])
    visible, hidden = mae.split(draw)
    error = (mae.reconstruct(images, visible, hidden) - mae.target(images, hidden)).double() ** 2
    torch.testing.assert_close(loss.double(), error.mean(-1).mean(), rtol=1e-5, atol=1e-6)
    loss.backward()
    without = [name for name, weight in mae.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []


def test_positions_are_fixed_and_a_frozen_table(mae):
    assert not mae.encoder.net.pos_embed.requires_grad
    assert "positions_LE" not in mae.state_dict()


def test_pictures_show_the_visible_patches_as_they_are(mae):
    batch = image_batch(4, views=1)
    picture = mae.pictures(batch, Draw(0, batch["epoch"], batch["index"]))["reconstructions"]
    assert picture.shape == (3, 4 * 32, 3 * 32)
    original, reconstruction = picture[:, :32, :32], picture[:, :32, 64:]
    same = (patchify(original[None], 4) - patchify(reconstruction[None], 4)).abs().amax(-1) < 1e-4
    assert int(same.sum()) == 16


@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.999, math.nan])
def test_a_mask_ratio_without_visible_or_hidden_patches_is_refused(vit, spec, ratio):
    with pytest.raises(BadInput, match="mask_ratio"):
        MaskedAutoencoder(vit, spec, mask_ratio=ratio)
