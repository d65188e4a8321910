"""Commands from recorded configurations: Hydra itself composes them again."""

import shlex

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conf import CONF, recall
from conf.recall import differences, finetune_command, train_command, written
from errors import BadInput


def composed(script: str, words: list[str]) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose(script, overrides=words), resolve=True)


def recorded(script: str, words: list[str]) -> dict:
    """As config.yaml has it: through text, with the names of a pre-training run."""
    config = composed(script, words)
    chosen = dict(word.split("=", 1) for word in words if "=" in word)
    if script == "train":
        config["names"] = {group: chosen[group] for group in ("objective", "model", "datamodule")}
    return yaml.safe_load(yaml.safe_dump(config, sort_keys=False))


@pytest.mark.parametrize(
    "words",
    [
        ["objective=mae", "model=vit_t", "datamodule=emoji"],
        ["objective=simclr", "model=resnet18", "datamodule=image_folder", r"datamodule.root='/a folder/it\'s'",
         "optimizer=lars", "trainer=gpu", "seed=3", "budget.flops=2.8e12", "objective.crop_scale=[0.2,1.0]"],
        ["objective=mlm", "model=bert_mini", "datamodule=text_files", "datamodule.files=[a.txt,'b, c.txt']", "budget.steps=5",
         "datamodule.tokenizer.kind=bpe", "+optimizer.algorithm.amsgrad=true", "~monitor.share"],
        ["objective=mae", "model=timm", "datamodule=emoji", "model.name='null'", "trial_flops=1e12", "optimizer.base_lr=1e-7"],
    ],
)  # fmt: skip
def test_a_train_command_composes_to_the_configuration_it_comes_from(words):
    config = recorded("train", words)
    script, *found = shlex.split(train_command(config))[1:]
    assert script == "train.py"
    names = config.pop("names")
    assert [f"{group}={name}" for group, name in names.items()] == found[:3]
    assert composed("train", found) == config


def test_only_what_differs_is_said():
    config = recorded("train", ["objective=mae", "model=vit_t", "datamodule=emoji", "optimizer=sgd", "seed=2"])
    assert train_command(config) == "python train.py objective=mae model=vit_t datamodule=emoji optimizer=sgd seed=2"
    config = recorded(
        "train", ["objective=mae", "model=vit_t", "datamodule=emoji", "optimizer.base_lr=0.1", "trainer.workers=2"]
    )
    found = train_command(config).split()[5:]
    assert sorted(found) == ["optimizer.base_lr=0.1", "trainer.workers=2"]


@pytest.mark.parametrize(
    "words",
    [
        ["transfer=linear", "label_fraction=0.1", "seed=2"],
        ["transfer=linear", "model=vit_t", "model.depth=6"],
        ["transfer=knn", "model=vit_s", "model.depth=3", "datamodule=image_folder", "datamodule.root=/x.zip", "trainer=cpu"],
    ],
)
def test_a_finetune_command_too(words):
    config = recorded("finetune", words)
    found = shlex.split(finetune_command(config, words[0].partition("=")[2], "runs/a b"))
    assert found[:3] == ["python", "finetune.py", "checkpoint=runs/a b"]
    assert composed("finetune", found[2:]) == config | {"checkpoint": "runs/a b"}
    assert len(found) <= 4 + len(words)  # a choice that extends another may come out as that one and its difference


def test_what_is_no_longer_there_cannot_be_composed():
    config = recorded("train", ["objective=mae", "model=vit_t", "datamodule=emoji"])
    config["names"]["objective"] = "forgotten"
    with pytest.raises(BadInput, match="forgotten"):
        train_command(config)
    config["names"]["objective"] = "<script>"
    with pytest.raises(BadInput, match="cannot be composed"):
        train_command(config)
    for damaged in ({}, {"names": "mae"}, {"names": {"objective": ["mae"]}}):
        with pytest.raises(BadInput):
            train_command(damaged)
    names = {"objective": "mae", "model": "vit_t", "datamodule": "emoji"}
    assert "optimizer=3" in train_command({"names": names, "optimizer": 3})  # damaged, and said as it is


@pytest.mark.parametrize(
    "value",
    [None, True, 1, 1.0, 2.8e12, 0.1 + 0.2, 1e-5, "a", "null", "true", "12", "1e5", "a b", "it's", "a,b", "${x}", "[a]", "",
     "/tmp/x=y", "a\\b", [1, "x y", None], {"a": 1, "b": {"c": "null"}}],
)  # fmt: skip
def test_values_are_read_as_they_were_written(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(f"key={written(value)}")
    found = OmegaConf.to_container(OmegaConf.create({"key": override.value()}), resolve=False)["key"]
    if value == "${x}":
        found = found.replace("\\", "")  # an interpolation that is escaped
    assert found == value
    assert type(found) is type(value)


def test_differences_are_hydras_words():
    default = {"a": 1, "b": {"c": 2, "d": [1]}, "e": None, "f": {"g": 1}}
    config = {"a": 1, "b": {"c": 3, "d": [1], "new": 4}, "e": {"x": 1}}
    assert differences(default, config) == {"b.c": 3, "+b.new": 4, "e": {"x": 1}, "~f": None}


def test_inside_a_hydra_command_it_composes_too():
    recall._composed.cache_clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert "objective=mae" in train_command({"names": {"objective": "mae", "model": "vit_t", "datamodule": "emoji"}})
