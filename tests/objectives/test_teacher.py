"""Teachers: an average by the formula, the right mode for every layer, and schedules of the momentum."""

import math

import pytest
import torch
from made_vision import OBJECTIVES, batch_of, encoder_of, made_data
from timm.layers import DropPath
from torch import nn

from datamodules.spec import DataSpec
from models.timm_encoder import TimmEncoder
from objectives.draw import Draw
from objectives.projector import projector
from objectives.schedule import cosine, rise
from objectives.teacher import Teacher

SPEC = DataSpec("tiny", "image", 10, 32, 3)


def move(module: nn.Module, by: float) -> None:
    """Change every weight and every floating-point statistic."""
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor += by if tensor.is_floating_point() else 1


@pytest.mark.parametrize("norm", ["batch", "average"])
def test_weights_are_the_exponential_average_of_a_hand_loop(norm):
    encoder, head = encoder_of("tiny", SPEC), projector([32, 8, 4])
    teacher = Teacher(encoder, head, norm)
    student = nn.ModuleDict({"encoder": encoder, "head": head})
    expected = {name: tensor.double().clone() for name, tensor in student.state_dict().items()}
    for step, momentum in enumerate((0.9, 0.99, 1.0, 0.5)):
        move(student, 0.3 * (step + 1))
        teacher.follow(encoder, head, momentum)
        for name, tensor in student.state_dict().items():
            is_statistic = "running" in name or "num_batches" in name
            if not is_statistic or (norm == "average" and tensor.is_floating_point()):
                expected[name] = momentum * expected[name] + (1 - momentum) * tensor.double()
            elif norm == "average":
                expected[name] = tensor.double()
    state = teacher.state_dict()
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name].double(), tensor, rtol=1e-5, atol=1e-6)
    assert all(not weight.requires_grad for weight in teacher.parameters())


def test_only_batch_norms_of_their_own_batch_train_and_nothing_drops():
    encoder = TimmEncoder(SPEC, "vit_tiny_patch16_224", depth=2, drop_path=0.5)
    head = nn.Sequential(nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
    images = torch.randn(4, 3, 32, 32)
    for norm in ("batch", "average"):
        teacher = Teacher(encoder, head, norm)
        for mode in (True, False, True):
            teacher.train(mode)
            assert teacher.head[1].training == (mode and norm == "batch")
            assert not teacher.head[2].training
            assert not any(isinstance(module, DropPath) for module in teacher.modules())
        assert torch.equal(teacher(images), teacher(images))
        assert not teacher(images).requires_grad
    assert any(isinstance(module, DropPath) for module in encoder.modules())  # the student keeps its own


def test_what_an_averaged_norm_makes_of_a_picture_does_not_depend_on_its_batch():
    teacher = Teacher(encoder_of("tiny", SPEC), projector([32, 8, 4]), "average")
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(teacher(images)[:1], teacher(images[:1]))
    per_batch = Teacher(encoder_of("tiny", SPEC), projector([32, 8, 4]))
    assert not torch.allclose(per_batch(images)[:2], per_batch(images[:2]))


@pytest.mark.parametrize(
    ("name", "at_half"), [("byol", (1 + 0.996) / 2), ("dino", (1 + 0.996) / 2), ("moco_v3", (1 + 0.99) / 2)]
)
def test_the_momentum_rises_to_one(name, at_half, monkeypatch):
    data = made_data()
    objective = OBJECTIVES[name](encoder_of("tiny", data.spec), data.spec)
    momenta = []
    monkeypatch.setattr(objective.teacher, "follow", lambda encoder, head, momentum: momenta.append(momentum))
    for progress in (0.0, 0.5, 1.0):
        objective.after_step(progress)
    assert momenta == pytest.approx([2 * at_half - 1, at_half, 1.0])


def test_moco_v2_moves_the_teacher_by_a_constant_momentum():
    data = made_data()
    objective = OBJECTIVES["moco_v2"](encoder_of("tiny", data.spec), data.spec)
    before = objective.teacher.encoder.net[0].weight.clone()
    move(objective.encoder, 1.0)
    objective.after_step(0.7)
    torch.testing.assert_close(objective.teacher.encoder.net[0].weight, before + 0.001)


def test_targets_come_from_the_other_view_through_the_teacher(monkeypatch):
    data = made_data()
    byol = OBJECTIVES["byol"](encoder_of("tiny", data.spec), data.spec)
    batch, seen = batch_of(byol, data), []
    monkeypatch.setattr("objectives.byol.regression", lambda predicted, target: seen.append(target) or predicted.sum())
    draw = Draw(0, batch["epoch"], batch["index"])
    byol(batch, draw)
    second_and_first = [byol.teacher(byol.encoder.normalise(view)) for view in reversed(byol.two_views(batch, draw))]
    assert all(map(torch.equal, seen, second_and_first))


def test_schedules():
    assert [cosine(0.2, 1.0, progress) for progress in (0, 0.5, 1)] == pytest.approx([0.2, 0.6, 1.0])
    assert cosine(0.2, 1.0, 0.25) == pytest.approx(1 - 0.8 * (math.cos(math.pi / 4) + 1) / 2)
    progress = torch.tensor([0.0, 0.15, 0.3, 1.0])
    assert rise(0.04, 0.07, progress, 0.3).tolist() == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert rise(0.04, 0.07, progress[:2], 0.0).tolist() == pytest.approx([0.04, 0.07])
