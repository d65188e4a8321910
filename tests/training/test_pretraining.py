"""What a step of the LightningModule takes care of."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from conf import build, read_choice
from models.fused import chains_compiled, compile_chains
from training.course import Steps
from training.pretraining import LOGGED_EVERY, Pretraining, first_change, seed_generators
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


@pytest.mark.parametrize(("tables", "expected"), [((True, False), 0.01), ((True, True), 0.03), ((False, False), 0.03)])
def test_the_learning_rate_shown_is_not_that_of_embedding_tables(tables, expected):
    groups = [{"lr": lr, "embedding": table} for lr, table in zip((0.03, 0.01), tables, strict=True)]
    assert Pretraining.lr.fget(SimpleNamespace(optimizers=lambda: SimpleNamespace(param_groups=groups))) == expected


def test_coupled_adamw_shows_the_rate_that_was_announced():
    objective = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    settings = build(read_choice("optimizer", "coupled_adamw"))
    module = Pretraining(objective, settings, Steps(10), 64, 0)
    optimizer = settings.optimizer(objective, 64)
    module.optimizers = lambda: optimizer
    assert max(group["lr"] for group in optimizer.param_groups) > module.lr == settings.peak_lr(64)


FACTS = {"training samples": 67, "vocabulary": 0, "classes": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("then", "now", "expected"),
    [
        (FACTS, FACTS, None),
        ({}, FACTS, None),
        (FACTS, FACTS | {"training samples": 97}, "training samples: 67 then, 97 now"),
        (FACTS, FACTS | {"classes": ["cat", "dog", "eel"]}, "classes: 2 then, 3 now"),
        (FACTS, FACTS | {"classes": ["cat", "eel"]}, "classes: dog then, eel now"),
    ],
)
def test_data_that_changed_are_told_by_their_facts(then, now, expected):
    assert first_change(then, now) == expected
