"""The configuration that a run left in its folder, checked before anything is built from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from errors import BadInput

NODES = {"names": dict, "seed": int, "model": dict, "datamodule": dict, "objective": dict, "optimizer": dict, "budget": dict}
NODES |= {"trial_flops": int | float, "trainer": dict, "monitor": dict}
SPEED = ("trainer", "monitor")  # nodes that may change when a run goes on


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration that a run was started with.

    Raises:
        BadInput: the folder is not a run, or its config.yaml is damaged.
    """
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"'{folder}/config.yaml' is damaged: {' '.join(str(error).split())[:120]}") from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise BadInput(f"{str(folder)!r} is not a run folder: it holds no config.yaml") from error
    if not isinstance(config, dict):
        raise BadInput(f"'{folder}/config.yaml' is damaged: it holds no settings")
    for node, kind in NODES.items():
        if not isinstance(config.get(node), kind) or isinstance(config[node], bool):
            raise BadInput(f"'{folder}/config.yaml' is damaged: its '{node}' is {config.get(node)!r}")
    names = config["names"]
    if not all(isinstance(names.get(group), str) for group in ("objective", "model", "datamodule")):
        raise BadInput(f"'{folder}/config.yaml' is damaged: its 'names' are {names!r}")
    return config


def gone_on_with(config: dict[str, Any], folder: Path, words: Sequence[str]) -> dict[str, Any]:
    """The configuration with the nodes of `SPEED` as the run in `folder` has them, but for what was typed.

    Args:
        config: as composed from the command line.
        words: of the command line; a whole group among them (`trainer=ddp`) takes the recorded one's place.

    Raises:
        BadInput: the folder is not a run, or its config.yaml is damaged.
    """
    recorded = read_config(folder)
    keys = [word.lstrip("+~").partition("=")[0] for word in words]
    changed = dict(config)
    for node in SPEED:
        if node not in keys:
            typed = [key.split(".")[1] for key in keys if key.startswith(f"{node}.")]
            changed[node] = config[node] | recorded[node] | {key: config[node][key] for key in typed if key in config[node]}
    return changed
