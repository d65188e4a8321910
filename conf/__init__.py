"""The configuration: its files, and how a node of it becomes an object."""

from pathlib import Path
from typing import Any

CONF = Path(__file__).parent


def choices_of(group: str) -> list[str]:
    """The names that a config group offers, e.g. choices_of('objective')."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def read_choice(group: str, choice: str) -> dict[str, Any]:
    """The node that `group=choice` selects, as its file says it."""
    import yaml

    config = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text(encoding="utf-8"))
    return config.get(group, config)


def build(node: dict[str, Any], **late: Any) -> Any:
    """The object that a node describes; `late` arguments are those that are known only now.

    Hydra makes the arguments, the call is ours: an error in it comes out as itself, and dataclasses stay what they are.
    """
    from hydra.utils import instantiate

    return instantiate(node, _partial_=True)(**late)
