"""Losses on pictures against lightly's, and against the formulas written out in float64."""

import math

import pytest
import torch
from lightly.loss import DINOLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss
from made_vision import OBJECTIVES, batch_of, encoder_of, made_data
from torch import Tensor

from objectives.byol import regression
from objectives.draw import Draw
from objectives.moco_v2 import Queue, contrast_with_queue
from objectives.moco_v3 import contrast
from objectives.triplet import hardest_triplets
from objectives.vicreg import VICReg, vicreg_terms


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def unit(vectors: Tensor) -> Tensor:
    return vectors.double() / vectors.double().norm(dim=1, keepdim=True)


def test_moco_v2_is_lightlys_nt_xent_with_a_memory_bank():
    theirs, queue = NTXentLoss(0.2, memory_bank_size=(12, 16)), Queue(12, 16)
    theirs.memory_bank.bank.copy_(queue.keys_KE)
    for _ in range(5):  # the ring of three batches is overwritten once and a half
        query, key = torch.randn(2, 4, 16)
        query = query.requires_grad_()
        loss, _ = contrast_with_queue(query, key, queue.keys_KE, torch.zeros(4, 12, dtype=torch.bool), 0.2)
        expected = theirs(query, key)
        torch.testing.assert_close(loss, expected)
        gradients = [torch.autograd.grad(value, query, retain_graph=True)[0] for value in (loss, expected)]
        torch.testing.assert_close(*gradients)
        queue.hold(torch.nn.functional.normalize(key, dim=1), torch.arange(4))
        queue.push()
        torch.testing.assert_close(queue.keys_KE, theirs.memory_bank.bank)


def test_moco_v3_against_the_formula():
    query, key = torch.randn(2, 7, 16)
    similarity = unit(query) @ unit(key).T / 0.2
    expected = sum(-similarity[i, i] + similarity[i].exp().sum().log() for i in range(7)) / 7 * 2 * 0.2
    loss, accuracy = contrast(query, key, 0.2)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    assert accuracy == sum(similarity[i].argmax() == i for i in range(7)) / 7
    assert contrast(query, query, 0.2)[1] == 1
    key.requires_grad_()
    assert not contrast(query, key, 0.2)[0].requires_grad  # no gradient into the keys


def test_moco_v3_is_symmetric():
    data = made_data()
    objective = OBJECTIVES["moco_v3"](encoder_of("tiny", data.spec), data.spec)
    batch = batch_of(objective, data)
    first, second = ((2 * view - 1) for view in objective.two_views(batch, Draw(0, batch["epoch"], batch["index"])))
    queries = [objective.predictor(objective.projector(objective.encoder(view).pooled)) for view in (first, second)]
    keys = [objective.projector(objective.encoder(view).pooled) for view in (first, second)]  # the teacher has not moved yet
    expected = contrast(queries[0], keys[1], 0.2)[0] + contrast(queries[1], keys[0], 0.2)[0]
    torch.testing.assert_close(objective(batch, Draw(0, batch["epoch"], batch["index"])).loss, expected)


def test_byols_regression_is_the_negative_cosine():
    predicted, target = torch.randn(2, 9, 16)
    expected = 2 + 2 * NegativeCosineSimilarity()(predicted, target)
    torch.testing.assert_close(regression(predicted, target), expected, rtol=1e-5, atol=1e-6)
    assert regression(predicted, 3 * predicted) < 1e-6


def test_vicreg_is_lightlys():
    for scale in (0.1, 3.0):  # the hinge of the variance bites, or does not
        first, second = scale * torch.randn(2, 12, 16)
        terms = vicreg_terms(first, second)
        for weights in ((25.0, 25.0, 1.0), (1.0, 7.0, 3.0)):
            ours = sum(
                weight * terms[name] for weight, name in zip(weights, ("invariance", "variance", "covariance"), strict=True)
            )
            torch.testing.assert_close(ours, VICRegLoss(*weights)(first, second))


def test_vicregs_weights_reach_their_terms():
    data = made_data()
    objective = VICReg(encoder_of("tiny", data.spec), data.spec, 2.0, 3.0, 5.0, expander_width=16)
    batch = batch_of(objective, data)
    outcome = objective(batch, Draw(0, batch["epoch"], batch["index"]))
    report = outcome.report
    expected = 2 * report["invariance"] + 3 * report["variance"] + 5 * report["covariance"]
    torch.testing.assert_close(outcome.loss.detach(), expected)


@pytest.mark.parametrize("num_local", [0, 3])
def test_dino_is_lightlys_loss_and_centre_step_by_step(num_local):
    data = made_data()
    dino = OBJECTIVES["dino"](encoder_of("tiny", data.spec), data.spec, num_local=num_local)
    theirs = DINOLoss(output_dim=40)
    scores = {}
    dino.head.register_forward_hook(lambda *call: scores.update(student=call[-1]))
    dino.teacher.register_forward_hook(lambda *call: scores.update(teacher=call[-1]))
    for step, batch in enumerate(data.train_loader(dino.views(), 0, 4)):
        loss = dino(batch, Draw(0, batch["epoch"], batch["index"])).loss
        student, teacher = scores["student"].chunk(2 + num_local), scores["teacher"].chunk(2)
        progress = 0.1 * step
        temperature = 0.04 + 0.03 * min(1, progress / 0.3)
        torch.testing.assert_close(loss, theirs(list(teacher), list(student), teacher_temp=temperature))
        dino.after_step(0.1 * (step + 1))
        torch.testing.assert_close(dino.centre_K, theirs.center.flatten())
    assert dino.centre_K.abs().max() > 0.01


@pytest.mark.parametrize("margin", [0.2, 1.5])
def test_triplets_against_every_pair(margin):
    first, second = torch.randn(2, 6, 4)
    views, losses, right = unit(torch.cat([first, second])), [], []
    for i in range(12):
        apart = [math.dist(views[i].tolist(), views[j].tolist()) for j in range(12)]
        positive, hardest = apart[(i + 6) % 12], min(apart[j] for j in range(12) if j % 6 != i % 6)
        losses.append(max(0, positive - hardest + margin))
        right.append(positive < hardest)
    loss, accuracy = hardest_triplets(first, second, margin)
    assert loss.item() == pytest.approx(sum(losses) / 12, rel=1e-5)
    assert accuracy.item() == pytest.approx(sum(right) / 12)


def test_triplets_have_a_gradient_where_views_are_equal():
    view = torch.randn(4, 8, requires_grad=True)
    hardest_triplets(view, view, 2.5)[0].backward()
    assert torch.isfinite(view.grad).all()
    assert view.grad.abs().sum() > 0
