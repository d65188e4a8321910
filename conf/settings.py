"""What the settings of train.py, finetune.py and compare.py can be, looked at before anything is opened or built.

Those of nodes with a class stand in its signature; here are the others.
"""

import sys
import typing
from typing import Annotated, Any, Literal, TypedDict

from annotated_types import Ge
from omegaconf import DictConfig, OmegaConf

from conf import choices_of, models_named
from conf.targets import check_node, check_value
from errors import BadInput, nearest
from ranges import Count, CountOr0, NotNegative, Positive, Seed, ShareAbove0

NODES = ("objective", "model", "datamodule", "optimizer", "transfer")
GROUPS = (*NODES, "trainer")  # of which a choice is made by name
SET_BY_MODELS = ("pair",)  # what conf/model/clip_vit_b.yaml says to other groups
LATE = ("encoder", "spec")  # what no configuration gives
BEGINNING = "init"  # the setting of the node `model` that is no argument of its class
FEWEST_PICTURES = 6  # of which two are queries, whose spread can be told


class Trainer(TypedDict, total=False):
    """Of conf/trainer/*.yaml; which names there are is said where they are chosen from."""

    accelerator: str
    strategy: str
    devices: Any  # a number or a word: `training.ranks` knows which
    num_nodes: Count
    precision: str
    attention: str
    accumulate: Count
    activation_checkpointing: bool
    half_stream: bool
    compile: bool
    workers: CountOr0 | Literal["auto"]
    checkpoint_every_steps: Count
    sharded_checkpoints: bool


class Monitor(TypedDict, total=False):
    """As `training.monitors.Monitors` takes them."""

    times: CountOr0
    pictures: Annotated[int, Ge(FEWEST_PICTURES)]
    share: NotNegative


class Train(TypedDict):
    """Of conf/train.yaml."""

    seed: Seed
    trial_flops: Positive
    trainer: Trainer
    monitor: Monitor
    objective: dict
    model: dict
    datamodule: dict
    optimizer: dict
    budget: dict
    replay: Any  # `training.continuation` knows what, of which run
    resume: str | None


class Finetune(TypedDict):
    """Of conf/finetune.yaml."""

    checkpoint: str
    outputs: str
    seed: Seed | None
    label_fraction: ShareAbove0
    trainer: Trainer
    transfer: dict
    model: dict | None
    datamodule: dict | None
    text_model: str


class Compare(TypedDict):
    """Of conf/compare.yaml; `plans.plan` knows the names and ranges."""

    report: str | None
    objectives: str | list[str] | None
    model: str | list[str] | None
    datamodule: str | list[str] | None
    experiment: str | None
    seeds: int | list[int]
    budget: dict[str, float | None]
    transfer: str | list[str]
    label_fractions: float | list[float]
    tasks: str | list[str] | None
    settings: dict[str, str | list[str] | dict] | None
    folder: str | None
    jobs: int
    launcher: str | None


def given(config: DictConfig, known: type[Train] | type[Finetune] | type[Compare]) -> dict[str, Any]:
    """The settings of a command, resolved.

    Raises:
        BadInput: there is one that the command does not know, or none where it needs one.
    """
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    hints = typing.get_type_hints(known, include_extras=True)
    for key in settings:
        if key not in (*hints, *SET_BY_MODELS):
            named = " (--config-name names another file than the command's)" if {"-cn", "--config-name"} & {*sys.argv} else ""
            raise BadInput(f"there is no setting '{key}'{named}; {nearest(key, hints)}")
    for key, hint in hints.items():
        if key not in settings and not (key in GROUPS and type(None) in typing.get_args(hint)):
            names = f"; choices: {', '.join(choices_of(key))}" if key in GROUPS else ""
            raise BadInput(f"{key} must be given{names}")
        if (hint is dict or typing.is_typeddict(hint)) and not isinstance(settings[key], dict):
            raise BadInput(f"{key} must be a group of settings, not {settings[key]!r}")
    begins = {"resume": settings["resume"], "model.init": settings["model"].get("init")} if known is Train else {}
    for name, folder in begins.items():
        if folder == "latest":
            raise BadInput(f"{name}=latest is not known, only checkpoint=latest of finetune.py; {name}=<run folder>")
    return settings


def check_kinds(settings: dict[str, Any], known: type[Train] | type[Finetune] | type[Compare]) -> None:
    """Raise BadInput where a setting of a command, nodes with a class left out, is not what it can be."""
    for key, hint in typing.get_type_hints(known, include_extras=True).items():
        check_value(key, settings.get(key), hint)


def check_settings(settings: dict[str, Any], known: type[Train] | type[Finetune]) -> None:
    """Raise BadInput where a setting of a command is not what it can be."""
    check_kinds(settings, known)
    for group in NODES:
        node = settings.get(group)
        if node is not None:
            named = models_named(node)
            gone = (*named, BEGINNING) if group == "model" else named
            check_node({key: value for key, value in node.items() if key not in gone}, {*named, *LATE})
