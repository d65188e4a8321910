"""Autoencoders: what is hidden by its statistics, the variational bound against closed forms."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from made_vision import OBJECTIVES, batch_of, encoder_of, made_data
from scipy import stats
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from datamodules.spec import DataSpec
from errors import BadInput
from models.encoder import Encoder, Features
from objectives.autoencoder import Autoencoder, Decoder, pixel_nats
from objectives.bottleneck import Gaussian, Vector, divergence
from objectives.corruption import Hole, Noise, Nothing
from objectives.draw import Draw


def draw_of(num: int, epoch: int = 0) -> Draw:
    return Draw(0, torch.full((num,), epoch), torch.arange(num))


def test_noise_is_gaussian_and_everyones_own():
    pictures = torch.rand(200, 1, 8, 8)
    seen, counts = Noise(0.25)(pictures, draw_of(200))
    noise = (seen - pictures).double()
    assert stats.kstest(noise.flatten().numpy() / 0.25, "norm").pvalue > 1e-3
    assert len(noise.flatten(1).round(decimals=6).unique(dim=0)) == 200
    assert not torch.equal(seen, Noise(0.25)(pictures, draw_of(200, epoch=1))[0])
    assert (counts == 1).all()


def test_holes_have_their_share_and_are_uniform_over_places():
    pictures = torch.rand(4000, 3, 12, 12)
    seen, hole = Hole(0.25)(pictures, draw_of(4000))
    assert (hole.sum(dim=(1, 2, 3)) == 36).all()
    assert torch.equal(seen == pictures, (hole == 0).expand_as(pictures))
    assert (seen[hole.bool().expand_as(seen)] == 0.5).all()
    rows, columns = hole[:, 0].amax(dim=2).argmax(dim=1), hole[:, 0].amax(dim=1).argmax(dim=1)
    counts = np.bincount(rows * 7 + columns, minlength=49)  # a side of 6 has 7 places in 12
    assert len(counts) == 49
    assert stats.chisquare(counts).pvalue > 1e-3
    assert (hole[:, 0].amax(dim=2).sum(dim=1) == 6).all()


def test_only_what_the_hole_hides_must_be_rebuilt_and_none_of_it_is_seen():
    data = made_data()
    objective = OBJECTIVES["inpainting"](encoder_of("tiny", data.spec), data.spec).eval()
    batch = batch_of(objective, data)
    draw = Draw(0, batch["epoch"], batch["index"])
    hole = Hole()(batch["views"][:, 0] / 255, draw)[1].bool()
    objective.decoder.register_forward_hook(lambda *call: rebuilt.append(call[-1]))
    rebuilt: list[Tensor] = []
    loss = objective(batch, draw).loss
    hidden = batch["views"].clone()
    hidden[:, 0][hole.expand_as(hidden[:, 0])] = 77
    other_loss = objective({**batch, "views": hidden}, draw).loss
    assert torch.equal(rebuilt[0], rebuilt[1])
    assert other_loss != loss
    hole = hole.expand_as(rebuilt[0])
    expected = Normal(rebuilt[0][hole].double(), 0.1).log_prob(batch["views"][:, 0][hole] / 255)
    torch.testing.assert_close(loss.double(), -expected.mean(), rtol=1e-5, atol=1e-5)


def test_a_denoiser_is_judged_by_the_clean_picture():
    data = made_data()
    objective = OBJECTIVES["denoising"](encoder_of("tiny", data.spec), data.spec)
    batch, rebuilt = batch_of(objective, data), []
    objective.decoder.register_forward_hook(lambda *call: rebuilt.append(call[-1]))
    outcome = objective(batch, Draw(0, batch["epoch"], batch["index"]))
    error = (rebuilt[0].double() - batch["views"][:, 0].double() / 255).square().mean()
    torch.testing.assert_close(outcome.report["squared_error"].double(), error.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        outcome.loss.double(), error / 0.02 + math.log(0.1 * math.sqrt(2 * math.pi)), rtol=1e-5, atol=1e-5
    )


def test_divergence_and_pixels_are_torchs():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(2, 50, dtype=torch.float64)
    ours = divergence(mean, log_variance)
    torch.testing.assert_close(ours, kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)))
    pictures, rebuilt = torch.rand(2, 50, dtype=torch.float64)
    torch.testing.assert_close(pixel_nats(pictures, rebuilt, 0.3), -Normal(rebuilt, 0.3).log_prob(pictures))


class Flat(Encoder):
    """The pixels as they are."""

    modality = "image"

    def __init__(self, width: int = 4):
        super().__init__()
        self.width = width

    def normalise(self, inputs: Tensor) -> Tensor:
        return inputs

    def forward(self, inputs: Tensor, keep: Tensor | None = None) -> Features:
        return Features(inputs.flatten(1)[:, None], inputs.flatten(1), inputs.flatten(1)[:, None][:, :0])


def test_with_the_exact_posterior_the_bound_is_the_likelihood():
    """A linear decoder with orthogonal columns: the posterior is normal with known, independent parts."""
    std, spec, num = 0.4, DataSpec("four pixels", "image", 1, 2, 1), 100_000
    mixing = torch.tensor([[0.5, 0.2], [0.5, -0.2], [-0.3, 0.7], [-0.3, -0.7]])  # (pixels, Z)
    shift = torch.tensor([0.5, 0.4, 0.6, 0.5])
    precision = (mixing**2).sum(0) / std**2 + 1
    objective = Autoencoder(Flat(), spec, Nothing(), partial(Gaussian, width=2), pixel_std=std, decoder_width=16)
    objective.decoder = nn.Identity()
    bottleneck = objective.bottleneck = Gaussian(Flat(), 1, 2, width=2)
    with torch.no_grad():
        bottleneck.spread.weight.copy_(mixing)
        bottleneck.spread.bias.copy_(shift)
        bottleneck.read.weight[:2] = mixing.T / std**2 / precision[:, None]
        bottleneck.read.bias[:2] = -bottleneck.read.weight[:2] @ shift
        bottleneck.read.weight[2:] = 0
        bottleneck.read.bias[2:] = -precision.log()
    picture = torch.tensor([200, 30, 90, 250], dtype=torch.uint8)
    batch = {"views": picture.view(1, 1, 1, 2, 2).expand(num, 1, 1, 2, 2)}
    draw = draw_of(num)
    evidence = MultivariateNormal(shift, mixing @ mixing.T + std**2 * torch.eye(4)).log_prob(picture / 255)
    with torch.no_grad():
        bound = -4 * objective(batch, draw).loss
        assert bound.item() == pytest.approx(evidence.item(), abs=0.01)
        bottleneck.read.bias[2:] += 0.5  # any other distribution is below it
        assert -4 * objective(batch, draw).loss < bound - 0.05


def test_in_evaluation_the_mean_passes():
    data = made_data()
    objective = OBJECTIVES["variational"](encoder_of("tiny", data.spec), data.spec)
    images = torch.rand(8, 3, 32, 32)
    sampled = [objective.encode(images, draw_of(8, epoch)).grid_BWSS for epoch in range(2)]
    assert not torch.equal(*sampled)
    objective.eval()
    assert torch.equal(*(objective.encode(images, draw_of(8, epoch)).grid_BWSS for epoch in range(2)))


@pytest.mark.parametrize(
    ("size", "sides"), [(28, [7, 14, 28]), (32, [8, 16, 32]), (72, [9, 18, 36, 72]), (50, [7, 13, 25, 50])]
)
def test_the_decoder_reaches_any_size(size, sides):
    decoder = Decoder(32, size, 1)
    assert decoder.sides == sides
    assert decoder(torch.randn(2, 32, sides[0], sides[0])).shape == (2, 1, size, size)
    assert decoder(torch.randn(2, 32, 5, 5)).shape == (2, 1, size, size)


def test_an_autoencoder_learns_to_rebuild():
    data = made_data(16, batch_size=16)
    objective = OBJECTIVES["denoising"](Flat(3 * 16**2), data.spec, corruption=Noise(0.1))
    optimizer = torch.optim.Adam(objective.parameters(), lr=1e-3)
    errors = []
    for batch in data.train_loader(objective.views(), 0, 60):
        outcome = objective(batch, Draw(0, batch["epoch"], batch["index"]))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        errors.append(outcome.report["squared_error"].item())
    assert np.mean(errors[-5:]) < 0.035 < 0.05 < errors[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Noise(0), "std must be above 0"),
        (lambda: Hole(1.0), "share must lie between"),
        (lambda: Autoencoder(Flat(), DataSpec("", "image", 1, 2, 1), Nothing(), Vector, pixel_std=0), "pixel_std"),
        (lambda: Autoencoder(Flat(), DataSpec("", "image", 1, 2, 1), Nothing(), Vector, decoder_width=8), "16 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()
