"""Distillation: what a student is compared with, that the teacher stays as it is, and which teachers do not fit."""

import pytest
import torch
import torch.nn.functional as F
from conftest import image_batch, text_encoder
from torch.distributions import Categorical, kl_divergence

from datamodules.spec import DataSpec
from errors import BadInput
from models.classifier import Classifier
from models.export import load_classifier, save_encoder
from models.timm_encoder import TimmEncoder
from objectives.distillation import FeatureDistillation, LogitDistillation, softened_divergence
from objectives.draw import Draw

SPEC = DataSpec("tiny", "image", 100, 32, 3, ("a", "b", "c"))
RESNET = {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 40)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Exported runs: supervised, plain, grey and text."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    vit = TimmEncoder(SPEC, "vit_tiny_patch16_224", depth=1, positions="sincos")
    encoders = {
        "supervised": vit,
        "plain": vit,
        "grey": TimmEncoder(DataSpec("grey", "image", 100, 32, 1), "vit_tiny_patch16_224", depth=1),
        "text": text_encoder("bert"),
    }
    for name, encoder in encoders.items():
        (folder / name).mkdir()
        save_encoder(encoder, folder / name)
    save_encoder(Classifier(vit.width, ("x", "y", "z", "w")), folder / "supervised", "classifier")
    return folder


def student(seed: int = 5) -> TimmEncoder:
    torch.manual_seed(seed)
    return TimmEncoder(SPEC, "resnet18", settings=RESNET)


def draw_of(batch) -> Draw:
    return Draw(0, batch["epoch"], batch["index"])


def teacher_features(folder, batch) -> torch.Tensor:
    from models.export import load_encoder

    teacher = load_encoder(folder).eval()
    with torch.no_grad():
        return teacher(teacher.normalise(batch["views"][:, 0])).pooled


def test_a_student_learns_the_standardised_features(runs):
    objective, batch = FeatureDistillation(student(), SPEC, str(runs / "plain")), image_batch(views=1)
    theirs = teacher_features(runs / "plain", batch).double()
    target = (theirs - theirs.mean(dim=1, keepdim=True)) / (theirs.var(dim=1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    ours = objective.projection(objective.encoder(objective.encoder.normalise(batch["views"][:, 0])).pooled).double()
    gap = (ours - target).abs()
    expected = torch.where(gap < 2, gap**2 / 4, gap - 1).mean()
    assert 0 < (gap < 2).double().mean() < 1
    outcome = objective(batch, draw_of(batch))
    torch.testing.assert_close(outcome.loss.double(), expected, rtol=1e-5, atol=1e-6)
    assert outcome.report["agreement"].item() == pytest.approx(F.cosine_similarity(ours, target).mean().item(), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logits_against_torchs_divergence(runs, temperature):
    teacher, ours = torch.randn(2, 5, 7, dtype=torch.float64)
    of_teacher, of_student = (Categorical(logits=logits / temperature) for logits in (teacher, ours))
    expected = kl_divergence(of_teacher, of_student).mean() * temperature**2
    torch.testing.assert_close(softened_divergence(ours, teacher, temperature), expected)

    objective, batch = LogitDistillation(student(), SPEC, str(runs / "supervised"), temperature), image_batch(views=1)
    classifier = load_classifier(runs / "supervised")
    assert objective.head.class_names == ("x", "y", "z", "w")
    logits = classifier(teacher_features(runs / "supervised", batch))
    own = objective.head(objective.encoder(objective.encoder.normalise(batch["views"][:, 0])).pooled)
    loss = objective(batch, draw_of(batch)).loss
    torch.testing.assert_close(loss, softened_divergence(own, logits, temperature), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [FeatureDistillation, LogitDistillation])
def test_only_the_student_learns_and_it_comes_to_agree(runs, make):
    objective, batch = make(student(), SPEC, str(runs / "supervised")), image_batch(8, views=1)
    before = {name: tensor.clone() for name, tensor in objective.teacher.state_dict().items()}
    trained = [weight for weight in objective.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-2)
    objective.train()
    losses = []
    for _ in range(15):
        loss = objective(batch, draw_of(batch)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(0.5)
        losses.append(loss.item())
    assert all(weight.grad is not None for weight in trained)
    assert losses[-1] < 0.5 * losses[0]
    assert not objective.teacher.encoder.training
    assert all(torch.equal(before[name], tensor) for name, tensor in objective.teacher.state_dict().items())


def test_widths_must_be_equal_without_a_projection(runs):
    assert FeatureDistillation(student(), SPEC, str(runs / "plain"), projection=True).projection.weight.shape == (192, 40)
    with pytest.raises(BadInput, match=r"features of width 192, the student of 40; objective.projection=true"):
        FeatureDistillation(student(), SPEC, str(runs / "plain"), projection=False)
    vit = TimmEncoder(SPEC, "vit_tiny_patch16_224", depth=1)
    objective, batch = FeatureDistillation(vit, SPEC, str(runs / "plain"), projection=False), image_batch(views=1)
    assert torch.isfinite(objective(batch, draw_of(batch)).loss)


@pytest.mark.parametrize("make", [FeatureDistillation, LogitDistillation])
@pytest.mark.parametrize(
    ("run", "size", "reason"),
    [
        ("text", 32, "is a run on text; this objective needs one on pictures"),
        ("grey", 32, "reads 1 colour channels, 'tiny' has 3"),
        ("plain", 30, "was trained on 32 px and cannot read 30 px; set datamodule.image_size=32"),
        ("nowhere", 32, "holds no encoder.json"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(runs, make, run, size, reason):
    spec = DataSpec("tiny", "image", 100, size, 3, ("a", "b", "c"))
    with pytest.raises(BadInput, match=reason):
        make(student(), spec, str(runs / run))


def test_logits_need_a_classifier(runs):
    with pytest.raises(BadInput, match="has no classifier, .*objective=feature_distillation"):
        LogitDistillation(student(), SPEC, str(runs / "plain"))
    with pytest.raises(BadInput, match="temperature must be above 0"):
        LogitDistillation(student(), SPEC, str(runs / "supervised"), temperature=0)
