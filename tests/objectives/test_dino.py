"""DINO: crops of two sizes, a head like the authors', schedules, and encoders that read one size only."""

import numpy as np
import PIL.Image
import pytest
import torch
from made_vision import OBJECTIVES, batch_of, encoder_of, made_data
from torch import nn

from errors import BadInput
from models.pixels import Pixels
from objectives.dino import MultiCrops, PrototypeHead
from objectives.draw import Draw
from objectives.views import Crops


def draw_of(batch) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


@pytest.mark.parametrize(("kind", "size", "local"), [("vit", 32, 12), ("resnet", 32, 14), ("vit", 64, 24), ("vit", 72, 30)])
def test_small_crops_are_three_sevenths_in_whole_patches(kind, size, local):
    data = made_data(size)
    objective = OBJECTIVES["dino"](encoder_of(kind, data.spec), data.spec)
    batch = batch_of(objective, data)
    assert batch["views"].shape == (8, 2, 3, size, size)
    assert batch["local_views"].shape == (8, 3, 3, local, local)


def test_small_crops_show_small_parts_that_large_ones_do_not_tell():
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    picture = PIL.Image.fromarray(np.stack([np.broadcast_to(ramp, (64, 64))] * 3, axis=-1).copy())
    crops = MultiCrops(Crops(32, 2, (0.4, 1.0), flip=0.0), Crops(16, 4, (0.05, 0.4), flip=0.0, name="local "))
    index = torch.arange(300)
    views = crops([picture] * 300, 0, torch.zeros(300, dtype=torch.long), index)
    spans = {name: (view[..., 0, 0, -1].float() - view[..., 0, 0, 0].float()) / 255 for name, view in views.items()}
    assert spans["views"].shape == (300, 2)
    assert spans["local_views"].shape == (300, 4)
    assert spans["views"].median() > 0.7  # widths: the square root of a share of 0.4 to 1
    assert 0.3 < spans["local_views"].median() < 0.6
    together = torch.corrcoef(torch.stack([spans["views"][:, 0], spans["local_views"][:, 0]]))[0, 1]
    assert abs(together) < 0.2  # other choices, not the same ones in another range
    assert MultiCrops(crops.large, None)([picture], 0, index[:1], index[:1]).keys() == {"views"}


def test_a_small_crop_larger_than_the_picture_or_between_patches_is_refused():
    data = made_data()
    make = OBJECTIVES["dino"]
    with pytest.raises(BadInput, match="local_size=40 is larger than the pictures of 32 px"):
        make(encoder_of("vit", data.spec), data.spec, local_size=40)
    with pytest.raises(BadInput, match="local_size=15 is no size that this model.*4, 8, 12, 16"):
        make(encoder_of("vit", data.spec), data.spec, local_size=15)
    assert make(encoder_of("resnet", data.spec), data.spec, local_size=15).crops.small.size == 15
    with pytest.raises(BadInput, match="local_size=14 is no size that this model.*vit_t and resnet18"):
        make(Pixels(data.spec), data.spec)


@pytest.mark.parametrize("setting", [{"student_temperature": 0.0}, {"teacher_temperature": (0.04, -1.0)}])
def test_temperatures_of_zero_are_refused(setting):
    data = made_data()
    with pytest.raises(BadInput, match="temperature must be above 0"):
        OBJECTIVES["dino"](encoder_of("tiny", data.spec), data.spec, **setting)


def test_the_head_is_weight_normed_with_a_fixed_scale():
    torch.manual_seed(0)
    head = PrototypeHead(8, 16, 4, 10)
    last = nn.utils.parametrizations.weight_norm(nn.Linear(4, 10, bias=False))
    last.parametrizations.weight.original0.data.fill_(1.0)
    last.parametrizations.weight.original1.data.copy_(head.prototypes_KE.data)
    features = torch.randn(5, 8)
    expected = last(nn.functional.normalize(head.layers(features), dim=1))
    torch.testing.assert_close(head(features), expected)
    ours = torch.autograd.grad(head(features).square().sum(), head.prototypes_KE)[0]
    theirs = torch.autograd.grad(expected.square().sum(), last.parametrizations.weight.original1)[0]
    torch.testing.assert_close(ours, theirs)


def test_prototypes_stay_for_their_share_of_the_budget():
    data = made_data()
    objective = OBJECTIVES["dino"](encoder_of("tiny", data.spec), data.spec, freeze_prototypes=0.2)
    batch = batch_of(objective, data)
    for progress, frozen in ((0.0, True), (0.19, True), (0.2, False), (1.0, False)):
        objective.after_step(progress)
        objective.zero_grad()
        objective(batch, draw_of(batch)).loss.backward()
        assert (objective.head.prototypes_KE.grad.abs().sum() == 0) == frozen
        assert objective.head.layers[-1].weight.grad.abs().sum() > 0


def test_the_teacher_sees_large_crops_and_the_student_all_of_them():
    data = made_data()
    objective = OBJECTIVES["dino"](encoder_of("tiny", data.spec), data.spec)
    sides = {"student": [], "teacher": []}
    objective.encoder.register_forward_pre_hook(lambda _, inputs: sides["student"].append(inputs[0].shape[0::3]))
    objective.teacher.encoder.register_forward_pre_hook(lambda _, inputs: sides["teacher"].append(inputs[0].shape[0::3]))
    batch = batch_of(objective, data)
    objective(batch, draw_of(batch))
    assert sides == {"student": [(16, 32), (24, 14)], "teacher": [(16, 32)]}  # one pass a resolution
