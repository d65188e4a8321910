"""Every objective on two real processes, as DDP and as FSDP2: the loss curve of one process with the same global batch."""

import pytest
from fits import Fit, fit, settings_of, strategy
from made_runs import OBJECTIVES, words_for

QUICK = ("mae", "simclr", "mlm")  # in `make test`; the others are long
EARLY = 10  # steps in which two orders of the same sums have not grown apart: from 1e-7 they come to 1e-4 in 15 steps
RECIPE = ["optimizer.base_lr=0.02", "optimizer.clip_norm=1.0", "optimizer.warmup=0.3"]


def each(names: list[str]) -> list:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in names]


@pytest.fixture(scope="module")
def alone(pictures, texts, tmp_path_factory):
    """objective, steps -> what one process does."""
    known: dict[tuple[str, int], Fit] = {}

    def found(objective: str, num_steps: int) -> Fit:
        if (objective, num_steps) not in known:
            settings = settings_of([*words_for(objective, pictures, texts), *RECIPE])
            known[objective, num_steps] = fit(settings, tmp_path_factory.mktemp("alone"), num_steps, monitored=True)
        return known[objective, num_steps]

    return found


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
@pytest.mark.parametrize("objective", each(OBJECTIVES))
def test_two_ranks_learn_what_one_process_learns(two_ranks, alone, objective, name, pictures, texts, tmp_path):
    num_steps = 4 if objective in QUICK else 20
    expected = alone(objective, num_steps)
    settings = settings_of([*words_for(objective, pictures, texts), *RECIPE, *strategy(name)])
    first, second = two_ranks(fit, settings, tmp_path, num_steps, None, None, 0, True)
    assert_same_course(first, expected)
    assert second.losses == first.losses  # what is logged is the mean, on every rank
    assert len({round(loss, 4) for loss in first.losses}) > num_steps // 2  # something is learned
    assert not first.drawn.keys() & second.drawn.keys()
    assert len(set(first.drawn.values()) | set(second.drawn.values())) == len(first.drawn) + len(second.drawn)
    assert first.drawn | second.drawn == expected.drawn
    assert first.metrics == pytest.approx(expected.metrics, rel=2e-3)  # 13 or 18 samples, none of them twice
    assert not second.metrics


def assert_same_course(found: Fit, expected: Fit) -> None:
    """Losses and final weights are those of another arrangement of the same sums."""
    largest, num_steps = max(expected.losses), len(expected.losses)
    assert found.losses[:EARLY] == pytest.approx(expected.losses[:EARLY], rel=1e-4, abs=1e-5 * largest)
    assert found.losses == pytest.approx(expected.losses, rel=1e-3, abs=1e-4 * largest)
    apart = 1e-3 if num_steps <= EARLY else 1e-2
    for name, weight in found.weights.items():
        if (
            weight.ndim > 1 or ".running_" in name
        ):  # some biases have no gradient but rounding errors, which AdamW makes steps of
            assert (weight - expected.weights[name]).abs().max() <= apart * weight.abs().max(), name


RESNET = ["model=resnet18", "~model.depth", "optimizer=sgd"]
STAGES = ["model=timm", "model.name=convnext_atto", "~model.depth", "+model.settings.depths=[1,1,1,1]"]
VARIANTS = {
    "shards follow after_step": ("rtd", "fsdp", ["objective.sharing=disentangled"]),
    "synchronised batch norm of a ResNet": ("simclr", "ddp", RESNET),
    "sharded batch norm": ("simclr", "fsdp", RESNET),
    "shards of stages": ("simclr", "fsdp", [*STAGES, "trainer.activation_checkpointing=true"]),
    "LARS on shards": ("mae", "fsdp", ["optimizer=lars", "optimizer.base_lr=3"]),
    "coupled rows on shards": ("mlm", "fsdp", ["optimizer=coupled_adamw"]),
    "SGD without clipping": ("span_corruption", "fsdp", ["optimizer=sgd", "optimizer.clip_norm=null"]),
    "activations computed again": ("mae", "fsdp", ["trainer.activation_checkpointing=true", "model.drop_path=0"]),
    "activations computed again, unsharded": ("mlm", "ddp", ["trainer.activation_checkpointing=true"]),
    "batch norm computed again": ("simclr", "ddp", [*RESNET, "trainer.activation_checkpointing=true"]),
    "compiled": ("mae", "ddp", ["trainer.compile=true"]),
    "compiled shards": ("mlm", "fsdp", ["trainer.compile=true", "trainer.activation_checkpointing=true"]),
}


@pytest.mark.long
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants(two_ranks, variant, pictures, texts, tmp_path):
    objective, name, more = VARIANTS[variant]
    words = [word for word in words_for(objective, pictures, texts) if f"~{word.partition('=')[0]}" not in more]
    words = [*words, *RECIPE, *(word for word in more if not word.startswith("~"))]
    alone = [word for word in words if not word.startswith("trainer.")]
    expected = fit(settings_of(alone), tmp_path / "alone", 6)
    first, _ = two_ranks(fit, settings_of([*words, *strategy(name)]), tmp_path / "ranks", 6)
    assert_same_course(first, expected)


@pytest.mark.long
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_half_precision_on_ranks(two_ranks, name, pictures, texts, tmp_path):
    words = [*words_for("mae", pictures, texts), *RECIPE]
    expected = fit(settings_of(words), tmp_path / "alone", 6)
    settings = settings_of([*words, *strategy(name)])
    settings["trainer"]["precision"] = "bf16"
    first, _ = two_ranks(fit, settings, tmp_path / "ranks", 6)
    assert first.losses == pytest.approx(expected.losses, rel=2e-2)
    assert first.losses != pytest.approx(expected.losses, rel=1e-5)
    assert all(weight.dtype == expected.weights[name].dtype for name, weight in first.weights.items())
