"""The configuration: its files, and how a node of it becomes an object."""

from pathlib import Path
from typing import Any

from conf.targets import OURS, check_node
from errors import BadInput, nearest

CONF = Path(__file__).parent


def choices_of(group: str) -> list[str]:
    """The names that a config group offers, e.g. choices_of('objective')."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def read_choice(group: str, choice: str) -> dict[str, Any]:
    """The node that `group=choice` selects, as its file says it.

    Raises:
        BadInput: there is no such choice.
    """
    import yaml

    if choice not in choices_of(group):
        raise BadInput(f"there is no {group} '{choice}'; {nearest(choice, choices_of(group))}")
    config = yaml.safe_load((CONF / group / f"{choice}.yaml").read_text(encoding="utf-8"))
    return config.get(group, config)


def build(node: dict[str, Any], **late: Any) -> Any:
    """The object that a node describes; `late` arguments are those that are known only now.

    Hydra makes the arguments, the call is ours: an error in it comes out as itself, and dataclasses stay what they are.

    Raises:
        BadInput: the node names what no configuration may, or its settings do not fit; or a library refuses them.
    """
    from hydra.utils import instantiate

    check_node(node, late)
    try:
        return instantiate(node, _partial_=True)(**late)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if _raised_here(error):
            raise  # a defect of ours
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadInput(f"{node['_target_'].rpartition('.')[2]} cannot be built with these settings: {reason}") from error


def _raised_here(error: Exception) -> bool:
    """Whether the line that raised it is this project's."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = Path(trace.tb_frame.f_code.co_filename)
    return file.is_relative_to(CONF.parent) and file.relative_to(CONF.parent).parts[0] in ("conf", *OURS)
