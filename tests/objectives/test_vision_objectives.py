"""What every objective on pictures owes: gradients, pictures, draws, undisturbed counting, and an exact resumption."""

import io

import pytest
import torch
from made_vision import OBJECTIVES, WITH_TEACHER, batch_of, encoder_of, made_data

from errors import BadInput
from objectives.collapse import entropy, feature_std
from objectives.draw import Draw
from objectives.projector import projector
from objectives.views import Crops
from training.flops import sample_flops, samples_of


def draw_of(batch) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


@pytest.mark.parametrize(("kind", "size", "channels"), [("vit", 32, 3), ("resnet", 44, 1)])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_trained_weight_has_a_gradient_and_a_person_sees_pictures(name, kind, size, channels):
    data = made_data(size, channels)
    objective = OBJECTIVES[name](encoder_of(kind, data.spec), data.spec)
    batch = batch_of(objective, data)
    outcome = objective(batch, draw_of(batch))
    outcome.loss.backward()
    without = [name for name, weight in objective.named_parameters() if weight.requires_grad and weight.grad is None]
    assert without == []
    assert all(weight.grad is None for weight in objective.parameters() if not weight.requires_grad)
    assert all(weight.ndim > 0 for weight in objective.parameters())
    assert outcome.loss.dtype == torch.float32
    for value in outcome.report.values():
        assert value.ndim == 0
        assert not value.requires_grad
    objective.eval()
    pictures = objective.pictures(samples_of(batch, range(4)), Draw(0, batch["epoch"][:4], batch["index"][:4]))
    for picture in pictures.values():
        assert picture.shape[:2] == (channels, 4 * size)
        assert picture.shape[2] % size == 0
        assert picture.min() >= 0
        assert picture.max() <= 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_chance_comes_from_the_draw_alone(name):
    data = made_data()
    losses = []
    for seed in (1, 2):
        objective = OBJECTIVES[name](encoder_of("tiny", data.spec), data.spec)
        torch.manual_seed(0)
        for weight in [*objective.parameters(), *objective.buffers()]:
            if weight.is_floating_point() and weight.ndim > 1:
                torch.nn.init.normal_(weight.data, std=0.1)
        batch = batch_of(objective, data)
        torch.manual_seed(seed)
        losses.append(objective(batch, draw_of(batch)).loss.item())
    assert losses[0] == losses[1]
    other_draw = objective(batch, Draw(1, batch["epoch"], batch["index"])).loss.item()
    # only the views of a tokenizer's pictures are drawn, and which tokens entries begin again at
    assert (other_draw == losses[0]) == (name == "vector_quantised")


@pytest.mark.parametrize("name", WITH_TEACHER)
@pytest.mark.parametrize("available", [2, 5, 8])
def test_counting_leaves_queues_teachers_and_centres_alone(name, available):
    data = made_data()
    objective = OBJECTIVES[name](encoder_of("tiny", data.spec), data.spec)
    batch = samples_of(batch_of(objective, data), range(available))
    before = {name: tensor.clone() for name, tensor in objective.state_dict().items()}
    assert sample_flops(objective, batch, 8) > 0
    objective.teacher.follow(objective.encoder, getattr(objective, "projector", None) or objective.head, 0.5)
    objective.after_step(0.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in objective.state_dict().items())


def test_the_teacher_counts():
    data = made_data()
    byol = OBJECTIVES["byol"](encoder_of("tiny", data.spec), data.spec)
    batch = batch_of(byol, data)
    with_teacher = sample_flops(byol, batch, 8)
    byol.teacher.forward = lambda images: torch.ones(len(images), 16)
    student = 16 * 16 * 16 * 27 + 8 * 8 * 32 * 16 * 9 + 32 * 32 + 32 * 16  # multiplications a view
    assert with_teacher - sample_flops(byol, batch, 8) == pytest.approx(2 * 2 * student, rel=1e-3)


@pytest.mark.parametrize("name", [*WITH_TEACHER, "variational", "vector_quantised"])
def test_a_resumed_run_is_the_same_bit_for_bit(name):
    data = made_data()

    def run(steps, checkpoint=None, seed=0):
        torch.manual_seed(seed)
        objective = OBJECTIVES[name](encoder_of("tiny", data.spec), data.spec)
        trained = [weight for weight in objective.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2)
        if checkpoint is not None:
            saved = torch.load(io.BytesIO(checkpoint), weights_only=True)
            objective.load_state_dict(saved["objective"], strict=True)
            optimizer.load_state_dict(saved["optimizer"])
        for step, batch in enumerate(data.train_loader(objective.views(), 0, 5)):
            if step in steps:
                optimizer.zero_grad()
                objective(batch, draw_of(batch)).loss.backward()
                optimizer.step()
                objective.after_step((step + 1) / 5)
        file = io.BytesIO()
        torch.save({"objective": objective.state_dict(), "optimizer": optimizer.state_dict()}, file)
        return file.getvalue(), objective.state_dict()

    _, whole = run(range(5))
    half, _ = run(range(2))
    _, resumed = run(range(2, 5), half, seed=7)
    assert set(whole) == set(resumed)
    assert all(torch.equal(whole[name], tensor) for name, tensor in resumed.items())


def test_simclrs_projector_keeps_its_names_and_layers():
    layers = projector([8, 16, 16, 4], last_norm="scale")
    assert [type(layer).__name__ for layer in layers] == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear", "BatchNorm1d"]
    assert all(layer.bias is None for layer in layers if hasattr(layer, "in_features"))
    assert [type(layer).__name__ for layer in projector([8, 16, 4])] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert layers[-1].weight.requires_grad
    assert not layers[-1].bias.requires_grad  # the authors' last batch norm has no shift
    assert not layers[-1].bias.any()
    plain = projector([8, 16, 4], last_norm="plain")
    assert (plain[1].affine, plain[-1].affine) == (True, False)
    bare = projector([8, 16, 4], norm=False)
    assert [type(layer).__name__ for layer in bare] == ["Linear", "ReLU", "Linear"]
    assert all(layer.bias is not None for layer in bare[::2])


@pytest.mark.parametrize(("kind", "last"), [("vit", ["Linear", "BatchNorm1d"]), ("resnet", ["Linear"])])
def test_moco_v3s_predictor_ends_with_a_norm_behind_transformers_alone(kind, last):
    data = made_data()
    objective = OBJECTIVES["moco_v3"](encoder_of(kind, data.spec), data.spec)
    assert [type(layer).__name__ for layer in objective.predictor] == ["Linear", "BatchNorm1d", "ReLU", *last]
    assert type(objective.projector[-1]).__name__ == "BatchNorm1d"


def test_moco_v2_does_not_push_a_picture_away_from_itself():
    data = made_data()
    objective = OBJECTIVES["moco_v2"](encoder_of("tiny", data.spec), data.spec)
    batch = batch_of(objective, data)
    objective(batch, draw_of(batch))
    objective.after_step(0.1)
    assert objective.queue.picture_K.tolist() == batch["index"].tolist() + [-1] * 16

    later = Draw(0, batch["epoch"] + 1, batch["index"])
    objective.eval()
    views = [objective.encoder.normalise(view) for view in objective.two_views(batch, later)]
    query = objective.projector(objective.encoder.embed(views[0])).double()
    key, ring = objective.teacher(views[1]).double(), objective.queue.keys_KE.double()
    query, key = query / query.norm(dim=1, keepdim=True), key / key.norm(dim=1, keepdim=True)
    expected = 0.0
    for i in range(8):
        others = torch.cat([ring[:i], ring[i + 1 :]])
        scores = torch.cat([(query[i] * key[i]).sum()[None], others @ query[i]]) / 0.2
        expected += (scores.logsumexp(0) - scores[0]) / 8
    with torch.no_grad():
        assert objective(batch, later).loss.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["simclr", "moco_v2", "moco_v3", "byol", "dino", "vicreg", "triplet"])
def test_collapse_is_measured_before_any_batch_norm_hides_it(name):
    data = made_data()
    objective = OBJECTIVES[name](encoder_of("tiny", data.spec), data.spec)
    batch = batch_of(objective, data)
    for scale in (1e-1, 1e-3, 1e-5):
        torch.manual_seed(0)
        objective.encoder.embed = lambda images, scale=scale: 1 + scale * torch.randn(len(images), objective.encoder.width)
        assert objective(batch, draw_of(batch)).report["feature_std"].item() == pytest.approx(scale, rel=0.2)


def test_measures_of_collapse():
    torch.manual_seed(0)
    assert feature_std(torch.randn(4000, 16)).item() == pytest.approx(1.0, abs=0.02)
    assert feature_std(torch.ones(9, 16)).item() == pytest.approx(0.0, abs=1e-5)
    assert feature_std(torch.randn(1, 16)).item() == 0.0
    assert entropy(torch.tensor([[0.25] * 4, [1.0, 0, 0, 0]])).tolist() == pytest.approx([1.3863, 0.0], abs=1e-4)


@pytest.mark.parametrize("scale", [(0.2, 1.5), (0.0, 0.5), (0.8, 0.2)])
def test_crops_larger_than_the_picture_are_refused(scale):
    with pytest.raises(BadInput, match="never larger than the picture"):
        Crops(32, scale=scale)


@pytest.mark.parametrize("name", ["simclr", "byol", "moco_v2", "moco_v3", "vicreg", "triplet"])
def test_views_of_another_size(name):
    data = made_data()
    for kind, size in (("vit", 20), ("resnet", 21)):
        objective = OBJECTIVES[name](encoder_of(kind, data.spec), data.spec, view_size=size)
        batch = batch_of(objective, data)
        assert batch["views"].shape[-1] == size
        assert torch.isfinite(objective(batch, draw_of(batch)).loss)
    with pytest.raises(BadInput, match="view_size=21 is no size that this model.*4, 8, 12, 16, 20, 24, 28, 32"):
        OBJECTIVES[name](encoder_of("vit", data.spec), data.spec, view_size=21)
    with pytest.raises(BadInput, match="view_size=48 is larger than the pictures of 32 px"):
        OBJECTIVES[name](encoder_of("resnet", data.spec), data.spec, view_size=48)
