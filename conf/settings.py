"""What the settings of train.py, finetune.py and compare.py can be, looked at before anything is opened or built.

Those of nodes with a class stand in its signature; here are the others.
"""

import typing
from typing import Annotated, Any, Literal, TypedDict

from annotated_types import Ge

from conf import models_named
from conf.targets import check_node, check_value
from ranges import Count, CountOr0, NotNegative, Positive, Seed, ShareAbove0

NODES = ("objective", "model", "datamodule", "optimizer", "transfer")
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


class Finetune(TypedDict):
    """Of conf/finetune.yaml."""

    checkpoint: str
    outputs: str
    seed: Seed | None
    label_fraction: ShareAbove0
    trainer: Trainer


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
