"""The configuration: its files, and how a node of it becomes an object."""

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from errors import BadInput, nearest

CONF = Path(__file__).parent
BUILDABLE = (
    "datamodules",
    "models",
    "objectives",
    "training",
    "transfer",
    "reports",
    "torch",
    "timm",
    "transformers",
    "lightning",
)
NAMES_A_MODEL = "_model"  # ends the key of a setting whose value is a choice of the group `model`


def choices_of(group: str) -> list[str]:
    """The names that a config group offers, e.g. choices_of('objective')."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def read_choice(group: str, choice: str) -> dict[str, Any]:
    """The node that `group=choice` selects, as its file says it."""
    import yaml

    config = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text(encoding="utf-8"))
    return config.get(group, config)


def modality(group: str, choice: str) -> str | None:
    """The modality that a choice's class declares."""
    return class_of(group, choice).modality


@cache
def class_of(group: str, choice: str) -> type:
    """The class that `group=choice` builds."""
    return class_at(read_choice(group, choice)["_target_"])


def class_at(target: object) -> type:
    """The class that a `_target_` names.

    A configuration is data and may come with somebody else's run, so nothing in it may name arbitrary code.

    Raises:
        BadInput: it is no class of this project, torch, timm, transformers or lightning.
    """
    module, _, name = str(target).rpartition(".")
    if module.partition(".")[0] not in BUILDABLE:
        raise BadInput(f"_target_ '{target}' is refused: it can name classes of {', '.join(BUILDABLE)} only")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"_target_ '{target}' does not exist: {' '.join(str(error).split())[:160]}") from error
    # what such a module has imported from elsewhere, and functions that load or run things, are none of it
    if not isinstance(found, type) or found.__module__.partition(".")[0] not in BUILDABLE:
        raise BadInput(f"_target_ '{target}' is refused: it is no class of {', '.join(BUILDABLE)}")
    return found


def check_targets(node: Any) -> None:
    """Raise BadInput where a node, or one inside it, names what no configuration may build."""
    if isinstance(node, dict) and "_target_" in node:
        class_at(node["_target_"])
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        check_targets(inner)


def build(node: dict[str, Any], **late: Any) -> Any:
    """The object that a node describes; `late` arguments are those that are known only now.

    Hydra makes the arguments, the call is ours: an error in it comes out as itself, and dataclasses stay what they are.
    A setting like `text_model: bert_mini` arrives as a function (spec, **other settings) -> that model.

    Raises:
        BadInput: such a setting names no model, or one of another modality than its key says; or the node names what no
            configuration may build.
    """
    check_targets(node)
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    named = {
        key: model_named(key, value)
        for key, value in node.items()
        if key.endswith(NAMES_A_MODEL) and isinstance(value, str) and key not in late
    }
    plain = {key: value for key, value in node.items() if key not in named}
    try:
        made = instantiate(plain, _partial_=True)
    except InstantiationException as error:  # Hydra's words around those of a node within the node
        raise (error.__cause__ if isinstance(error.__cause__, BadInput) else error) from None
    return made(**named, **late)


def model_named(key: str, choice: str) -> Callable[..., Any]:
    """(spec, **other settings) -> the model that a setting names; the key begins with its modality ("text_model")."""
    wanted = key.removesuffix(NAMES_A_MODEL)
    fitting = [name for name in choices_of("model") if modality("model", name) == wanted]
    if choice not in choices_of("model"):
        raise BadInput(f"there is no model '{choice}' for {key}; {nearest(choice, fitting)}")
    if choice not in fitting:
        raise BadInput(f"{key}={choice} is for {modality('model', choice)}; choices that fit: {', '.join(fitting)}")
    node = read_choice("model", choice)

    def model(spec: Any, **settings: Any) -> Any:
        return build({**node, **settings}, spec=spec)

    return model
