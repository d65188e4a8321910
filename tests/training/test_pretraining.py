"""What a step of the LightningModule takes care of."""

from types import SimpleNamespace

import torch

from models.fused import chains_compiled, compile_chains
from training.pretraining import LOGGED_EVERY, Pretraining, seed_generators
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


def test_a_gpus_loss_is_looked_at_where_it_is_logged_and_a_cpus_before():
    looked = []
    for device in ("cuda", "cpu"):
        for step in range(1, 2 * LOGGED_EVERY + 1):
            module = SimpleNamespace(
                loss=SimpleNamespace(device=torch.device(device)),
                course=SimpleNamespace(step=step),
                stop_if_not_finite=lambda at=(device, step): looked.append(at),
            )
            Pretraining.on_train_batch_end(module)
    assert looked == [("cuda", LOGGED_EVERY), ("cuda", 2 * LOGGED_EVERY)]
