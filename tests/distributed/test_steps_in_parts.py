"""`trainer.accumulate`: a step in parts moves the weights as the whole batch does, or is refused."""

import pytest
import torch
from fits import fit, settings_of, strategy
from made_runs import OBJECTIVES, words_for

from conf import build
from errors import BadInput
from objectives.draw import Draw
from training.accumulation import check_accumulation, check_batch
from training.continuation import Start
from training.fitting import face
from training.pretraining import Pretraining

RECIPE = ["optimizer.base_lr=0.02", "optimizer.clip_norm=1.0", "optimizer.warmup=0.3"]
REFUSED = ("simclr", "moco_v3", "byol", "vicreg", "triplet", "clip", "siglip", "flamingo")
QUICK = ("mlm", "span")


def each(names: list[str]) -> list:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in names if name not in REFUSED]


@pytest.mark.parametrize("objective", each(OBJECTIVES))
def test_parts_of_a_step_add_up_to_it(objective, pictures, texts, tmp_path):
    words = [*words_for(objective, pictures, texts), *RECIPE]
    whole = fit(settings_of(words), tmp_path / "whole", 4)
    parts = fit(settings_of([*words, "trainer.accumulate=4"]), tmp_path / "parts", 4)
    # of a loss that has nearly vanished, only the digits are left that rounding has spoilt
    assert parts.losses == pytest.approx(whole.losses, rel=1e-4, abs=1e-5 * max(whole.losses))
    for name, weight in whole.weights.items():
        if weight.ndim > 1:
            assert (weight - parts.weights[name]).abs().max() <= 1e-3 * weight.abs().max(), name


@pytest.mark.parametrize("words", [[], ["trainer.accumulate=2"]], ids=["whole", "parts"])
def test_a_step_begins_without_the_gradients_of_the_last(words, pictures, texts, tmp_path, monkeypatch):
    stale = []
    step = Pretraining.training_step

    def watched(module: Pretraining, *arguments):
        stale.append(sum(weight.grad is not None for weight in module.parameters()))
        return step(module, *arguments)

    monkeypatch.setattr(Pretraining, "training_step", watched)
    fit(settings_of([*words_for("mlm", pictures, texts), *words]), tmp_path / "run", 3)
    assert stale == [0, 0, 0]  # they would lie in memory beside the activations


@pytest.mark.long
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_parts_on_two_ranks(two_ranks, name, pictures, texts, tmp_path):
    words = [*words_for("span", pictures, texts), *RECIPE]
    whole = fit(settings_of(words), tmp_path / "whole", 4)
    first, _ = two_ranks(fit, settings_of([*words, *strategy(name), "trainer.accumulate=2"]), tmp_path / "parts", 4)
    assert first.losses == pytest.approx(whole.losses, rel=1e-4)


def built(words: list[str]):
    settings = settings_of(words)
    start = Start.of(settings)
    data = face(start.names, start.open_data())
    encoder = start.build_encoder(data.spec)
    objective = build(settings["objective"], encoder=encoder, spec=data.spec)
    return objective, next(iter(data.train_loader(objective.views(), 0, 1)))


@pytest.mark.parametrize(
    ("objective", "model", "reason"),
    [
        ("simclr", ["model=resnet18"], "batch norm"),
        ("simclr", ["objective.projector_depth=1"], "batch norm"),
        ("supervised", ["model=resnet18"], "batch norm"),
        ("supervised", ["objective.mix=0.5"], "which pictures of a step are mixed"),
        *((name, [], "batch norm") for name in REFUSED[1:5]),
        *((name, [], "grad_cache") for name in REFUSED[5:]),
        ("moco_v2", ["model=resnet18"], "batch norm"),
    ],
)
def test_what_looks_at_samples_together_is_refused(objective, model, reason, pictures, texts):
    words = [word for word in words_for(objective, pictures, texts) if "resnet18" not in str(model) or "depth" not in word]
    with pytest.raises(BadInput, match=reason):
        check_accumulation(*built([*words, *model]), 2)


def test_candidates_that_would_be_missing_are_refused_by_name(pictures, texts):
    objective, batch = built(words_for("simclr", pictures, texts))
    for index, layer in enumerate(objective.projector):
        if isinstance(layer, torch.nn.BatchNorm1d):
            objective.projector[index] = torch.nn.LayerNorm(layer.num_features)
    with pytest.raises(BadInput, match="grad_cache"):
        check_accumulation(objective, batch, 2)
    objective(batch, Draw(0, batch["epoch"], batch["index"]))  # and nothing of it remains


@pytest.mark.parametrize(
    ("accumulate", "expected"), [(3, "multiple of 6"), (0, "positive"), ("2", "positive"), (True, "positive")]
)
def test_batches_are_shared_out_equally_or_not_at_all(accumulate, expected):
    check_batch(8, 2, 4)
    with pytest.raises(BadInput, match=expected):
        check_batch(8, 2, accumulate)
