"""What a step of the LightningModule takes care of."""

import torch

from training.pretraining import seed_generators


def test_seeded_generators_draw_what_pytorch_draws_after_a_seed():
    for seed in (0, 7, (3 * 1_000_003 + 1) * 1_000_003 + 12):
        torch.manual_seed(seed)
        expected = torch.rand(5)
        seed_generators(seed, torch.device("cpu"))
        assert torch.equal(torch.rand(5), expected)
