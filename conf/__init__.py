"""The configuration: its files, and how a node of it becomes an object."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from conf.targets import OURS, check_node, class_at
from errors import BadInput, nearest

CONF = Path(__file__).parent
NAMES_A_MODEL = "_model"  # ends the key of a setting whose value is a choice of the group `model`
SETTINGS_OF_A_MODEL = "_settings"  # ends the key beside it that holds settings of that model


def choices_of(group: str) -> list[str]:
    """The names that a config group offers, e.g. choices_of('objective')."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def read_choice(group: str, choice: str) -> dict[str, Any]:
    """The node that `group=choice` selects, as its file says it.

    Raises:
        BadInput: there is no such choice.
    """
    from omegaconf import OmegaConf

    if choice not in choices_of(group):
        raise BadInput(f"there is no {group} '{choice}'; {nearest(choice, choices_of(group))}")
    config = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{choice}.yaml"))  # knows 1e-3 as a number, as Hydra does
    return config.get(group, config)


def modality(group: str, choice: str) -> str | None:
    """The modality that a choice's class declares."""
    return class_of(group, choice).modality


@cache
def class_of(group: str, choice: str) -> type:
    """The class that `group=choice` builds."""
    return class_at(read_choice(group, choice)["_target_"])


def build(node: dict[str, Any], **late: Any) -> Any:
    """The object that a node describes; `late` arguments are those that are known only now.

    Hydra makes the arguments, the call is ours: an error in it comes out as itself, and dataclasses stay what they are.
    A setting like `text_model: bert_mini` arrives as a function (spec, **other settings) -> that model.

    Raises:
        BadInput: the node names what no configuration may, or its settings do not fit; a setting like `text_model` names no
            model, or one of another modality than its key says; or a library refuses the settings.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    named = models_named(node, late)
    plain = {key: value for key, value in node.items() if key not in named}
    check_node(plain, {**named, **late})
    try:
        return instantiate(plain, _partial_=True)(**named, **late)
    except InstantiationException as error:  # Hydra's words around those of a node within the node
        cause = error.__cause__ or error
        if isinstance(cause, BadInput) or _raised_here(cause):
            raise cause from None
        raise _refused(node, cause) from error
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if _raised_here(error):
            raise  # a defect of ours
        raise _refused(node, error) from error


def _refused(node: dict[str, Any], error: BaseException) -> BadInput:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return BadInput(f"{node['_target_'].rpartition('.')[2]} cannot be built with these settings: {reason}")


def _raised_here(error: Exception) -> bool:
    """Whether the line that raised it is this project's."""
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = Path(trace.tb_frame.f_code.co_filename)
    return file.is_relative_to(CONF.parent) and file.relative_to(CONF.parent).parts[0] in ("conf", *OURS)


def models_named(node: dict[str, Any], late: Iterable[str] = ()) -> dict[str, Callable[..., Any]]:
    """Setting -> what `model_named` makes of it, of the settings of a node that name a model and are not given besides."""
    return {
        key: model_named(key, value)
        for key, value in node.items()
        if key.endswith(NAMES_A_MODEL) and isinstance(value, str) and key not in late
    }


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
        check_node({**node, **settings}, ["spec"], f"objective.{wanted}{SETTINGS_OF_A_MODEL}")
        return build({**node, **settings}, spec=spec)

    return model
