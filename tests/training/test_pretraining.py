"""What a step of the LightningModule takes care of."""

from types import SimpleNamespace

import torch

from models.fused import chains_compiled, compile_chains
from training.pretraining import seed_generators
from training.trainer import fit


def test_seeded_generators_draw_what_pytorch_draws_after_a_seed():
    for seed in (0, 7, (3 * 1_000_003 + 1) * 1_000_003 + 12):
        torch.manual_seed(seed)
        expected = torch.rand(5)
        seed_generators(seed, torch.device("cpu"))
        assert torch.equal(torch.rand(5), expected)


def test_what_a_training_compiles_is_as_written_when_it_is_over():
    during = []
    trainer = SimpleNamespace(
        callbacks=[],
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        fit=lambda *_, **__: compile_chains(True) or during.append(chains_compiled()),
    )
    fit(trainer, None, [])
    assert during == [True]
    assert not chains_compiled()
