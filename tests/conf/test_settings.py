"""Settings without a class: of the nodes `trainer` and `monitor`, and those at the top."""

import copy
import math

import pytest

from conf.composition import compose_settings
from conf.settings import Compare, Finetune, Train, check_kinds, check_settings
from conf.words import quoted
from errors import BadInput

COUNT, COUNT_OR_0 = "a whole number of 1 or more", "a whole number of 0 or more"
SEED = "a whole number from 0 to 9223372036854775807"


@pytest.fixture(scope="module")
def composed():
    return {Train: compose_settings("train", [])[0], Finetune: compose_settings("finetune", ["checkpoint=none"])[0]}


@pytest.mark.parametrize("known", [Train, Finetune])
def test_the_defaults_fit(composed, known):
    check_settings(composed[known], known)


@pytest.mark.parametrize(
    ("known", "name", "value", "said"),
    [
        *((Train, "trainer.checkpoint_every_steps", value, COUNT) for value in (0, None, "abc", True)),
        (Train, "trainer.accumulate", 0, COUNT),
        *(
            (known, "trainer.workers", value, f"{COUNT_OR_0} or auto")
            for known in (Train, Finetune)
            for value in (-1, None, "a")
        ),
        *((known, "trainer.num_nodes", value, COUNT) for known in (Train, Finetune) for value in ("abc", None, 0)),
        (Train, "trainer.half_stream", "abc", "true or false"),
        *((Train, "monitor.times", value, COUNT_OR_0) for value in (math.nan, -1, 0.5)),
        (Train, "monitor.pictures", 0, "a whole number of 6 or more"),
        *((Train, "monitor.share", value, "a finite number of 0 or more") for value in (math.nan, math.inf, -0.1)),
        (Train, "trial_flops", 0, "a finite number above 0"),
        *((Train, "seed", value, SEED) for value in (None, -1, 2**63, 1.5, True)),
        (Finetune, "seed", "abc", f"{SEED} or null"),
        *((Finetune, "label_fraction", value, "a number above 0 and at most 1") for value in ("abc", 0, 1.1, math.nan)),
        *((Finetune, name, value, "a text") for name in ("checkpoint", "outputs") for value in (None, ["a", "b"], 7)),
        (Finetune, "transfer.k", 0, COUNT),
        (Train, "datamodule.image_size", 0, f"{COUNT} or null"),
        (Train, "optimizer.warmup", math.nan, "a number from 0 to 1"),
    ],
)
def test_what_is_no_setting_is_said_in_one_line(composed, known, name, value, said):
    settings = copy.deepcopy(composed[known])
    node, _, key = name.rpartition(".")
    (settings[node] if node else settings)[key] = value
    with pytest.raises(BadInput) as refused:
        check_settings(settings, known)
    assert str(refused.value) == f"{name} must be {said}, not {value!r}"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("folder", 202611, "a text or null"), ("label_fractions", ["a"], "a finite number or a list"),
        ("tasks", [5], "a text or a list or null"), ("settings", 5, "a group of settings or null"),
        ("settings.mae", 5, "a text or a list or a group of settings"), ("budget", 5, "a group of settings"),
        ("budget.steps", "many", "a finite number or null"), ("experiment", 5, "a text or null"),
        ("launcher", 5, "a text or null"), ("seeds", "abc", "a whole number or a list"), ("jobs", 1.5, "a whole number"),
    ],
)  # fmt: skip
def test_what_is_no_setting_of_a_comparison_is_said_in_one_line(name, value, said):
    settings = compose_settings("compare", ["objectives=[mae]"])[0]
    check_kinds(settings, Compare)
    node, _, key = name.rpartition(".")
    (settings[node] if node else settings)[key] = value
    with pytest.raises(BadInput) as refused:
        check_kinds(settings, Compare)
    assert str(refused.value) == f"{name} must be {said}, not {value!r}"


@pytest.mark.parametrize("name", ["folder", "outputs", "hydra.run.dir", "hydra.sweep.dir"])
def test_the_name_of_a_folder_may_look_like_a_number(name):
    assert quoted(f"{name}=2026_11") == f"{name}='2026_11'"


def test_an_unknown_setting_of_a_node_without_a_class_is_refused(composed):
    settings = composed[Train] | {"trainer": composed[Train]["trainer"] | {"worker": 2}}
    with pytest.raises(BadInput, match=r"there is no setting 'trainer.worker'; did you mean workers"):
        check_settings(settings, Train)
