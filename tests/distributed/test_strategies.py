"""Every objective on two real processes, as DDP and as FSDP2: the loss curve of one process with the same global batch."""

import pytest
from fits import Fit, fit, settings_of, strategy
from made_runs import OBJECTIVES, words_for

QUICK = ("mae", "simclr", "mlm")  # in `make test`; the others are long
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
    assert first.losses == pytest.approx(expected.losses, rel=1e-4)
    assert second.losses == first.losses  # what is logged is the mean, on every rank
    assert len({round(loss, 4) for loss in first.losses}) > num_steps // 2  # something is learned
    assert not first.drawn.keys() & second.drawn.keys()
    assert len(set(first.drawn.values()) | set(second.drawn.values())) == len(first.drawn) + len(second.drawn)
    assert first.drawn | second.drawn == expected.drawn
    assert first.metrics == pytest.approx(expected.metrics, rel=2e-3)  # 13 or 18 samples, none of them twice
    assert not second.metrics
    for name_, weight in first.weights.items():
        if weight.ndim > 1:  # some biases have no gradient but rounding errors, which AdamW makes steps of
            assert (weight - expected.weights[name_]).abs().max() <= 1e-3 * weight.abs().max(), name_
