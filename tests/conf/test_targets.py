"""What the settings of a node can be: every number of every choice, ranges, and the full name in what is said."""

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest

from conf import build, choices_of, model_named, read_choice
from conf.targets import LIBRARIES, check_node
from errors import BadInput

GROUPS = ("objective", "model", "datamodule", "optimizer", "transfer")
CHOICES = [(group, choice) for group in GROUPS for choice in choices_of(group)]
UNBOUNDED = ("objective.loss.bias",)
JUDGED_LATER = ("objective.text_settings.", "datamodule.tokenizer.", "optimizer.algorithm.betas")  # by a model, by torch


def node_of(group: str, choice: str) -> dict[str, Any]:
    """What stands in the file, without what must be given or is known only when it is composed."""

    def settled(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        return {key: settled(value) for key, value in part.items() if not str(value).startswith(("???", "${"))}

    return settled(read_choice(group, choice))


def numbers(part: Any, name: str, ours: bool = True) -> Iterator[tuple[str, bool]]:
    """(full name, whether a class of this project takes it) of what is a number, or null, in a node and in those inside it."""
    if isinstance(part, dict):
        target = part.get("_target_")
        ours = ours if target is None else target.partition(".")[0] not in LIBRARIES
        for key, value in part.items():
            yield from numbers(value, f"{name}.{key}", ours)
    elif isinstance(part, list):
        for place, value in enumerate(part):
            yield from numbers(value, f"{name}[{place}]", ours)
    elif part is None or (isinstance(part, int | float) and not isinstance(part, bool)):
        yield name, ours


def changed(node: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """A node with another value at a full name."""
    node = copy.deepcopy(node)
    *way, last = [int(key) if key.isdecimal() else key for key in re.findall(r"[^.\[\]]+", name)][1:]
    inner = node
    for key in way:
        inner = inner[key]
    inner[last] = value
    return node


def refusal(node: dict[str, Any]) -> str:
    with pytest.raises(BadInput) as refused:
        check_node(node, ["encoder", "spec"])
    return str(refused.value)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_no_number_of_a_choice_can_be_infinite_or_nan(group, choice):
    node = node_of(group, choice)
    for name, _ in numbers(node, group):
        for value in (math.nan, math.inf, -math.inf):
            line = refusal(changed(node, name, value))
            assert re.match(rf"{re.escape(name.partition('[')[0])}\S* must be .*{value}", line), line
            assert "\n" not in line


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_number_of_a_choice_has_a_range(group, choice):
    node = node_of(group, choice)
    for name, ours in numbers(node, group):
        if ours and name not in UNBOUNDED and not name.startswith(JUDGED_LATER):
            line = refusal(changed(node, name, -1))
            assert line.startswith(f"{name.partition('[')[0]}"), line


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_the_defaults_fit(group, choice):
    check_node(node_of(group, choice))


@pytest.mark.parametrize(
    ("choice", "name", "value", "said"),
    [
        ("adamw", "optimizer.warmup", 1.5, "a number from 0 to 1"),
        ("adamw", "optimizer.weight_decay", -0.1, "a finite number of 0 or more"),
        ("adamw", "optimizer.final_weight_decay", -0.1, "a finite number of 0 or more or null"),
        ("adamw", "optimizer.clip_norm", 0, "a finite number above 0 or null"),
        ("adamw", "optimizer.base_lr", 0, "a finite number above 0"),
        ("adamw", "optimizer.base_lr", True, "a finite number above 0"),
        ("adamw", "optimizer.layer_decay", 0.0, "a number above 0 and at most 1"),
        ("lars", "optimizer.algorithm.momentum", 1.1, "a number from 0 to 1"),
        ("lars", "optimizer.algorithm.momentum", "abc", "a number from 0 to 1"),
        ("lars", "optimizer.algorithm.trust_coefficient", 0, "a finite number above 0"),
        ("coupled_adamw", "optimizer.algorithm.embedding_lr", 0, "a finite number above 0"),
        ("knn", "transfer.k", 0, "a whole number of 1 or more"),
        ("knn", "transfer.temperature", 0, "a finite number above 0"),
        ("linear", "transfer.strengths", [], "a list of 1 or more, each a finite number above 0"),
        ("linear", "transfer.strengths", [1.0, 0.0], "a list of 1 or more, each a finite number above 0"),
        ("linear", "transfer.max_iter", 0, "a whole number of 1 or more"),
        ("tfidf", "transfer.longest_ngram", 0, "a whole number of 1 or more"),
        ("finetune", "transfer.batch_size", 0, "a whole number of 1 or more or null"),
        ("finetune", "transfer.epochs", 0, "a whole number of 1 or more or null"),
        ("finetune", "transfer.min_steps", -1, "a whole number of 0 or more"),
        ("finetune", "transfer.label_smoothing", 1.1, "a number from 0 to 1 or null"),
        ("finetune", "transfer.drop_path", 1.0, "a number from 0 to below 1"),
        ("finetune", "transfer.layer_decay", 1.1, "a number above 0 and at most 1 or null"),
        ("finetune", "transfer.mix", 2, "a number from 0 to 1"),
        ("vit_t", "model.depth", 0, "a whole number of 1 or more or null"),
        ("vit_t", "model.patch_size", 0, "a whole number of 1 or more or null"),
        ("vit_t", "model.drop_path", 1, "a number from 0 to below 1"),
        ("t5_mini", "model.heads", 0, "a whole number of 1 or more"),
        ("bert_mini", "model.dropout", 1.0, "a number from 0 to below 1"),
        ("word_vectors", "model.width", 0, "a whole number of 1 or more"),
        ("byol", "objective.momentum", 1.5, "a number from 0 to 1"),
        ("moco_v2", "objective.temperature", 0, "a finite number above 0"),
        ("moco_v3", "objective.projector_depth", 0, "a whole number of 1 or more"),
        ("dino", "objective.centre_momentum", 1.5, "a number from 0 to 1"),
        ("dino", "objective.temperature_warmup", 1.5, "a number from 0 to 1"),
        ("dino", "objective.freeze_prototypes", 1.5, "a number from 0 to 1"),
        ("dino", "objective.teacher_temperature", [0.04, 0], "a list of 2, each a finite number above 0"),
        ("dino", "objective.local_size", 0, "a whole number of 1 or more or null"),
        ("triplet", "objective.margin", -0.5, "a finite number of 0 or more"),
        ("vicreg", "objective.variance", -1, "a finite number of 0 or more"),
        ("rtd", "objective.mask_ratio", 1.0, "a number above 0 and below 1"),
        ("rtd", "objective.weight", -1, "a finite number of 0 or more"),
        ("rtd", "objective.temperature", 0, "a finite number above 0"),
        ("span", "objective.mask_ratio", 0, "a number above 0 and below 1"),
        ("span", "objective.p", 0, "a number above 0 and at most 1"),
        ("span", "objective.longest", 0, "a whole number of 1 or more"),
        ("mlm", "objective.static_copies", 0, "a whole number of 1 or more or null"),
        ("permutation_lm", "objective.k", 0.5, "a finite number of 1 or more"),
        ("simclr", "objective.colour_strength", -1, "a finite number of 0 or more or null"),
        ("simclr", "objective.blur", 1.5, "a number from 0 to 1 or null"),
        ("simclr", "objective.projector_depth", 0, "a whole number of 1 or more"),
        ("supervised", "objective.label_smoothing", 1.5, "a number from 0 to 1"),
        ("supervised_text", "objective.dropout", 1, "a number from 0 to below 1"),
        ("clip", "objective.flip", 1.5, "a number from 0 to 1"),
        ("clip", "objective.loss.temperature", "abc", "a number above 0 and at most 1"),
        ("clip", "objective.grad_cache.chunks", 0, "a whole number of 1 or more"),
        ("clip", "objective.embedding_width", 0, "a whole number of 1 or more or null"),
        ("span_corruption", "objective.denoisers[0].mean_span", 0.5, "a finite number of 1 or more or null"),
        ("variational_autoencoder", "objective.bottleneck.weight", -1, "a finite number of 0 or more"),
        ("vector_quantised_autoencoder", "objective.bottleneck.commitment", -1, "a finite number of 0 or more"),
        ("simclr", "objective.crop_scale", [{"a": 1}, 0.5], "a list of 2, each a number above 0 and at most 1"),
        ("emoji", "datamodule.image_size", 0, "a whole number of 1 or more or null"),
        ("emoji", "datamodule.test_fraction", 0, "a number above 0 and below 1"),
        ("emoji", "datamodule.batch_size", 0, "a whole number of 1 or more"),
        ("kjv", "datamodule.val_fraction", 1, "a number above 0 and below 1"),
        ("kjv", "datamodule.num_sentinels", -1, "a whole number of 0 or more"),
        ("image_folder", "datamodule.val_fraction", 1, "a number from 0 to below 1"),
    ],
)
def test_what_is_out_of_range_is_said_in_one_line(choice, name, value, said):
    group = name.partition(".")[0]
    assert refusal(changed(node_of(group, choice), name, value)) == f"{name} must be {said}, not {value!r}"


@pytest.mark.parametrize(
    ("choice", "name", "said"),
    [
        ("adamw", "optimizer.algorithm.epz", "there is no setting 'optimizer.algorithm.epz'; did you mean eps"),
        ("finetune", "transfer.algorithm.epz", "there is no setting 'transfer.algorithm.epz'; did you mean eps"),
        ("clip", "objective.loss.temp", "there is no setting 'objective.loss.temp'; did you mean temperature"),
        (
            "ul2",
            "objective.denoisers[6].ratio",
            r"there is no setting 'objective.denoisers\[6\].ratio'; .*mean_span, noise_ratio",
        ),
    ],
)
def test_an_unknown_setting_inside_is_named_in_full(choice, name, said):
    group = name.partition(".")[0]
    assert re.match(said, refusal(changed(node_of(group, choice), name, 1)))


def test_a_missing_setting_of_a_denoiser_is_named():
    node = node_of("objective", "span_corruption") | {"denoisers": [{"noise_ratio": 0.15}]}
    assert refusal(node) == "objective.denoisers[0].mean_span must be given: a finite number of 1 or more or null"


def test_settings_of_the_text_model_are_those_of_the_objective():
    with pytest.raises(BadInput, match=r"^objective.text_settings.width must be a whole number of 1 or more, not 'abc'$"):
        model_named("text_model", "bert_mini")(None, width="abc")


def test_a_node_is_looked_at_before_it_is_built():
    with pytest.raises(BadInput, match=r"^optimizer.warmup must be a number from 0 to 1, not nan$"):
        build(read_choice("optimizer", "adamw") | {"warmup": math.nan})
