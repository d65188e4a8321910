"""Collapse: with its guard an objective keeps what it embeds apart for hundreds of steps, without it all becomes one."""

from functools import partial

import pytest
import torch
from made_vision import OBJECTIVES, encoder_of, made_data
from torch import Tensor, nn

from objectives.collapse import feature_std
from objectives.draw import Draw
from objectives.objective import Objective


class NoStop(nn.Module):
    """A teacher that is the student itself, with its gradient."""

    def __init__(self, objective: Objective):
        super().__init__()
        self.student = [objective.encoder, objective.projector]  # in a list: not registered twice

    def forward(self, images: Tensor) -> Tensor:
        encoder, head = self.student
        return head(encoder(images).pooled)

    def follow(self, *_: object) -> None:
        """It is there already."""


def without_stop_gradient(*arguments: object) -> Objective:
    byol = OBJECTIVES["byol"](*arguments)
    byol.teacher, byol.predictor = NoStop(byol), nn.Identity()
    return byol


dino = partial(OBJECTIVES["dino"], num_local=0, momentum=0.98, teacher_temperature=(0.03, 0.03))
BOUNDS = {"byol": (0.5, 0.2), "vicreg": (0.2, 0.1), "dino": (0.4, 0.25)}  # above with the guard, below without it
SOON = {"byol": 40, "vicreg": 40, "dino": 100}  # steps after which that shows
BUDGET = 300
CASES = {
    "byol": (OBJECTIVES["byol"], True),
    "byol without stop-gradient": (without_stop_gradient, False),
    "vicreg": (OBJECTIVES["vicreg"], True),
    "vicreg without variance": (partial(OBJECTIVES["vicreg"], variance=0.0), False),
    "dino": (dino, True),
    "dino without centring": (partial(dino, centre_momentum=1.0), False),
    "dino without sharpening": (partial(dino, teacher_temperature=(0.1, 0.1)), False),
}


@pytest.mark.parametrize("steps", [None, pytest.param(300, marks=pytest.mark.long)])
@pytest.mark.parametrize("case", CASES)
def test_the_guard_prevents_collapse(case, steps):
    make, guarded = CASES[case]
    name = case.split()[0]
    data = made_data(16, batch_size=32, num=160)
    objective = make(encoder_of("tiny", data.spec), data.spec)
    batches = list(data.train_loader(objective.views(), 0, 8))
    optimizer = torch.optim.Adam([weight for weight in objective.parameters() if weight.requires_grad], lr=3e-3)
    for step in range(steps or SOON[name]):
        batch = batches[step % 8]
        outcome = objective(batch, Draw(step // 8, batch["epoch"], batch["index"]))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        objective.after_step((step + 1) / BUDGET)
    high, low = BOUNDS[name]
    spread = held_out_spread(objective, data)
    assert spread > high if guarded else spread < low, outcome.report
    if name == "dino":
        shared, own = outcome.report["prototype_entropy"], outcome.report["teacher_entropy"]
        assert shared - own > 0.3 if guarded else shared - own < 0.25  # nats that a target says about its picture
        if case.endswith("centring"):
            assert shared < 0.5  # one prototype has won
        if case.endswith("sharpening"):
            assert own > 3.6  # of ln 40 = 3.69: no prototype wins anywhere


@torch.no_grad()
def held_out_spread(objective: Objective, data) -> float:
    """Of pictures that were not trained on: VICReg's embeddings as they are, BYOL's normalised, DINO's targets."""
    objective.eval()
    views = next(iter(data.evaluation_loader("val")))["views"][:, 0].float() / 255
    pooled = objective.encoder(objective.encoder.normalise(views)).pooled
    if hasattr(objective, "expander"):
        return objective.expander(pooled).std(dim=0).mean().item()
    if hasattr(objective, "centre_K"):
        scores = objective.teacher(objective.encoder.normalise(views)) - objective.centre_K
        return feature_std((scores / objective.teacher_temperature[1]).softmax(dim=1)).item()
    return feature_std(objective.projector(pooled)).item()
