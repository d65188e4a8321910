"""Optimisers and schedules: every parameter once, the stated learning rates, LARS by its formula."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from benchmarks.works import Work
from conf import build, read_choice
from objectives.supervised import Supervised
from training.coupled_adamw import CoupledAdamW
from training.lars import LARS
from training.optimization import Optimization, parameter_groups


@pytest.fixture(params=["vit", "resnet"])
def objective(request, spec) -> Supervised:
    return Supervised(request.getfixturevalue(request.param), spec)


@pytest.mark.parametrize("layer_decay", [1.0, 0.65])
def test_groups_hold_every_trainable_parameter_exactly_once(objective, layer_decay):
    groups = parameter_groups(objective, 0.05, layer_decay)
    grouped = [id(weight) for group in groups for weight in group["params"]]
    trainable = [id(weight) for weight in objective.parameters() if weight.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    for group in groups:
        assert all((weight.ndim > 1) == (group["weight_decay"] > 0) for weight in group["params"])


def test_layer_decay_follows_the_depth(objective):
    encoder = objective.encoder
    scale = {id(weight): group["lr_scale"] for group in parameter_groups(objective, 0.05, 0.5) for weight in group["params"]}
    num_layers = len(encoder.blocks) + 1
    assert scale[id(objective.head.weight)] == 1
    for i, block in enumerate(encoder.blocks):
        assert all(scale[id(weight)] == 0.5 ** (num_layers - 1 - i) for weight in block.parameters())
    stem = encoder.net.patch_embed.proj if hasattr(encoder.net, "patch_embed") else encoder.net.conv1
    assert scale[id(stem.weight)] == 0.5**num_layers


def test_learning_rate_scales_with_the_batch_and_follows_warmup_and_cosine(objective):
    recipe = Optimization(torch.optim.AdamW, base_lr=1e-3, warmup=0.1)
    assert recipe.peak_lr(512) == pytest.approx(2e-3)
    optimizer = recipe.optimizer(objective, 512)
    assert all(group["lr"] == pytest.approx(2e-3) for group in optimizer.param_groups)
    factors = [recipe.lr_factor(step, 100) for step in range(101)]
    assert sorted(factors[:11]) == factors[:11]
    assert max(factors) == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.5, abs=1e-9)
    assert factors[100] == pytest.approx(0.0)
    assert recipe.lr_factor(0, 1) > 0  # a run of one step does learn


@pytest.mark.parametrize("start", [0.0, 0.04])
def test_weight_decay_follows_half_a_cosine_on_matrices_alone(objective, start):
    recipe = Optimization(torch.optim.AdamW, base_lr=1e-3, weight_decay=start, final_weight_decay=0.4)
    groups = recipe.optimizer(objective, 256).param_groups
    for step, expected in ((0, start), (25, 0.4 - (0.4 - start) * (1 + math.cos(math.pi / 4)) / 2), (100, 0.4)):
        recipe.move_weight_decay(groups, step, 100)
        for group in groups:
            for weight in group["params"]:
                assert group["weight_decay"] == pytest.approx(expected if weight.ndim > 1 else 0.0)
    constant = Optimization(torch.optim.AdamW, base_lr=1e-3, weight_decay=start)
    constant.move_weight_decay(groups, 0, 100)
    assert max(group["weight_decay"] for group in groups) == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_fused_optimiser_follows_its_formula_and_can_be_clipped_and_scaled(name):
    torch.manual_seed(0)
    weight = nn.Linear(5, 3, bias=False, dtype=torch.float64)
    recipe: Optimization = build(read_choice("optimizer", name))
    optimizer = recipe.optimizer(weight, 256)
    assert optimizer.defaults["fused"]
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=100)
    expected = weight.weight.detach().clone()
    first, second = torch.zeros_like(expected), torch.zeros_like(expected)
    for step in range(1, 6):
        gradient = torch.randn(3, 5, dtype=torch.float64)
        weight.weight.grad = gradient * 8
        scaler.scale(torch.zeros(()))
        scaler.unscale_(optimizer)
        MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, 0.5)
        scaler.step(optimizer)
        scaler.update()
        gradient = gradient * 0.5 / max(0.5, gradient.norm())
        if name == "adamw":  # Loshchilov & Hutter 2019, algorithm 2
            first, second = 0.9 * first + 0.1 * gradient, 0.95 * second + 0.05 * gradient**2
            moved = first / (1 - 0.9**step) / ((second / (1 - 0.95**step)).sqrt() + 1e-8) + recipe.weight_decay * expected
        else:
            first = 0.9 * first + gradient + recipe.weight_decay * expected
            moved = first
        expected = expected - recipe.base_lr * moved
        torch.testing.assert_close(weight.weight.detach(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_follows_its_formula_and_adapts_without_weight_decay(weight_decay):
    torch.manual_seed(0)
    matrix, vector = nn.Parameter(torch.randn(4, 3).double()), nn.Parameter(torch.randn(3).double())
    expected = {"m": matrix.detach().clone(), "v": vector.detach().clone()}
    buffer = {"m": torch.zeros(4, 3).double(), "v": torch.zeros(3).double()}
    optimizer = LARS([matrix, vector], lr=0.5, momentum=0.9, weight_decay=weight_decay, trust_coefficient=0.001)
    for step in range(3):
        gradients = {"m": torch.full((4, 3), 10.0 * (step + 1)).double(), "v": torch.ones(3).double()}
        matrix.grad, vector.grad = gradients["m"].clone(), gradients["v"].clone()
        optimizer.step()
        decayed = gradients["m"] + weight_decay * expected["m"]
        ratio = 0.001 * math.sqrt((expected["m"] ** 2).sum()) / math.sqrt((decayed**2).sum())
        buffer["m"] = 0.9 * buffer["m"] + 0.5 * ratio * decayed
        buffer["v"] = 0.9 * buffer["v"] + 0.5 * gradients["v"]
        expected = {"m": expected["m"] - buffer["m"], "v": expected["v"] - buffer["v"]}
    torch.testing.assert_close(matrix.detach(), expected["m"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(vector.detach(), expected["v"], rtol=1e-12, atol=1e-12)


def test_lars_moves_weights_of_zero_norm():
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.ones(2, 2)
    LARS([weight], lr=0.1).step()
    assert torch.isfinite(weight).all()
    assert (weight != 0).all()


def coupled(groups: list[dict], **settings) -> CoupledAdamW:
    return CoupledAdamW(groups, lr=0.1, betas=(0.8, 0.9), eps=1e-3, fused=True, **settings)


def test_rows_of_an_embedding_share_one_second_moment_and_the_rest_is_adamw():
    torch.manual_seed(0)
    table, matrix = torch.randn(7, 5, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    weights = nn.Parameter(table.clone()), nn.Parameter(matrix.clone())
    marked = [
        {"params": [weights[0]], "weight_decay": 0.2, "embedding": True, "lr": 0.1},
        {"params": [weights[1]], "weight_decay": 0.2, "embedding": False, "lr": 0.1},
    ]
    optimizer = coupled(marked, embedding_lr=3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.3, 0.1])
    plain = nn.Parameter(matrix.clone())
    adamw = torch.optim.AdamW([plain], lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2)
    first, second = torch.zeros_like(table), torch.zeros_like(table)  # of each row, as the paper has them
    for step in range(1, 5):
        gradient = torch.randn(7, 5, dtype=torch.float64) * torch.arange(1, 8)[:, None]
        weights[0].grad, weights[1].grad = gradient.clone(), torch.randn(5, 3, dtype=torch.float64)
        plain.grad = weights[1].grad.clone()
        if step == 3:  # what a checkpoint holds is enough to go on
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = coupled([dict(group, params=[w]) for group, w in zip(marked, weights, strict=True)])
            optimizer.load_state_dict(saved)
        optimizer.step()
        adamw.step()
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        mean = (second / (1 - 0.9**step)).mean(0)
        table = table * (1 - 0.3 * 0.2) - 0.3 * first / (1 - 0.8**step) / (mean.sqrt() + 1e-3)
        torch.testing.assert_close(weights[0].data, table)
        torch.testing.assert_close(weights[1].data, plain.data)


def test_the_number_of_steps_of_coupled_rows_stays_on_the_host():
    """As PyTorch loads a fused optimiser's state, that number is on the weights' GPU, and reading it there waits."""
    table = nn.Parameter(torch.zeros(3, 2))
    optimizer = coupled([{"params": [table], "embedding": True}])
    for step in (1, 2):
        table.grad = torch.ones(3, 2)
        optimizer.step()
        state = optimizer.state[table]
        assert state["step"] == step
        state["step"] = SimpleNamespace(cpu=lambda kept=state["step"]: kept)  # on a GPU


@pytest.mark.parametrize("name", ["adamw", "coupled_adamw"])
def test_coupled_rows_do_not_drift_together_under_a_softmax(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8))
    hidden = torch.randn(20, 64, 8) + 1  # what is predicted has a direction in common
    optimizer = build(read_choice("optimizer", name) | {"weight_decay": 0.0}).optimizer(model, 256 * 50)
    before = model[0].weight.detach().mean(0)
    for hidden_BD in hidden:
        logits = hidden_BD @ model[0].weight.T
        torch.nn.functional.cross_entropy(logits, torch.zeros(64, dtype=torch.long)).backward()
        optimizer.step()
        optimizer.zero_grad()
    drift = (model[0].weight.detach().mean(0) - before).norm()
    assert drift < 1e-5 if name == "coupled_adamw" else drift > 0.5


def test_tables_are_groups_of_their_own():
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8))
    marked = {id(w): group["embedding"] for group in parameter_groups(model, 0.05) for w in group["params"]}
    assert [marked[id(weight)] for weight in model.parameters()] == [True, False, False]


TEXT = {"batch": 4, "length": 16, "vocabulary": 64}
TABLES = {
    "mlm bert_tiny": ["encoder.net.embeddings.word_embeddings.weight"],
    "rtd bert_tiny": ["encoder.net.embeddings.word_embeddings.weight"],  # shared with the generator
    "rtd modernbert_mini": ["encoder.net.embeddings.tok_embeddings.weight"],
    "span bert_tiny": ["encoder.net.embeddings.word_embeddings.weight"],
    "causal_lm gpt_mini": ["encoder.net.wte.weight"],
    "bidirectional_lm bilstm": ["encoder.net.embedding.weight"],
}


@pytest.mark.parametrize("name", TABLES)
def test_what_is_coupled_has_a_row_a_token_and_not_a_position(name):
    objective = Work(*name.split(), **TEXT).build()
    names = {id(weight): name for name, weight in objective.named_parameters()}
    coupled = [names[id(w)] for group in parameter_groups(objective, 0.05) if group["embedding"] for w in group["params"]]
    assert coupled == TABLES[name]
