"""What may be said beside `resume=<run folder>`: what the run is, and other settings of speed."""

import copy

import pytest
import yaml

from errors import BadInput
from training.run import resumed, typed_difference

RUN = {
    "seed": 0,
    "names": {"objective": "mae", "model": "vit_t", "datamodule": "emoji"},
    "model": {"_target_": "models.timm_encoder.TimmEncoder", "depth": 1, "init": None},
    "datamodule": {"_target_": "datamodules.emoji.Emoji", "batch_size": 64},
    "objective": {"_target_": "objectives.mae.MaskedAutoencoder", "mask_ratio": 0.75},
    "optimizer": {
        "_target_": "training.optimization.Optimization",
        "base_lr": 1e-3,
        "algorithm": {"_target_": "torch.optim.AdamW"},
    },
    "budget": {"steps": 3000, "epochs": None},
    "trial_flops": 1.2e13,
    "replay": 0.0,
    "trainer": {"workers": 0},
    "monitor": {"times": 4},
    "resume": None,
}


def changed(name: str, value: object) -> dict:
    config = copy.deepcopy(RUN)
    node = config
    *parts, key = name.split(".")
    for part in parts:
        node = node[part]
    node[key] = value
    return config


@pytest.mark.parametrize(
    ("word", "name", "value", "said"),
    [
        ("budget.steps=3100", "budget.steps", 3100, "budget.steps is 3000 there, 3100 here"),
        ("budget.epochs=2", "budget.epochs", 2, "budget.epochs is None there, 2 here"),
        ("model=vit_b", "names.model", "vit_b", "model is vit_t there, vit_b here"),
        ("model.depth=2", "model.depth", 2, "model.depth is 1 there, 2 here"),
        ("++optimizer.base_lr=9", "optimizer.base_lr", 9, "optimizer.base_lr is 0.001 there, 9 here"),
        ("seed=1", "seed", 1, "seed is 0 there, 1 here"),
        ("optimizer=sgd", "optimizer.algorithm._target_", "torch.optim.SGD", "torch.optim.AdamW there, torch.optim.SGD here"),
        ("experiment=other", "objective.mask_ratio", 0.5, "objective.mask_ratio is 0.75 there, 0.5 here"),
        ("optimizer=adamw", "optimizer.base_lr", 9, None),  # the same choice, whose settings were changed when it was begun
        ("model=vit_t", "model.depth", 12, None),
        ("trainer.workers=2", "trainer.workers", 2, None),
        ("monitor=0", "monitor", 0, None),
    ],
)
def test_a_word_that_says_other_than_the_run_is_named(word, name, value, said):
    found = typed_difference(changed(name, value), RUN, ["resume=run", word])
    assert found == said if said is None else found.endswith(said)
    assert typed_difference(RUN, RUN, ["resume=run", word]) is None


def test_a_run_that_is_gone_on_with_has_its_own_settings(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(RUN))
    typed = changed("trainer.workers", 2) | {"resume": str(tmp_path), "names": RUN["names"] | {"objective": "simclr"}}
    given = resumed(typed, tmp_path, ["trainer.workers=2", f"resume={tmp_path}"])
    assert given == RUN | {"resume": str(tmp_path), "trainer": {"workers": 2}}
    with pytest.raises(BadInput, match="objective is mae there, simclr here"):
        resumed(typed, tmp_path, ["objective=simclr"])


def test_pictures_of_another_size_than_those_of_the_run_that_is_begun_with_are_refused(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(changed("datamodule.image_size", 32)))
    asked = changed("model.init", str(tmp_path))
    asked["datamodule"]["image_size"] = 64
    with pytest.raises(BadInput, match=r"datamodule.image_size=64 contradicts model.init=.*, whose pictures have 32 px"):
        resumed(asked, tmp_path / "new", ["datamodule.image_size=64"])
    assert resumed(asked, tmp_path / "new", [])["datamodule"]["image_size"] == 64  # of the file: the run's is taken
