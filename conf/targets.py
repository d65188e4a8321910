"""What a configuration may build: classes of this project and of the libraries that it stands on, with settings that fit.

A configuration is data. It may come with somebody else's run, so that nothing in it may name arbitrary code. What a setting
can be is what the signature of its class says: a type, and with `typing.Annotated` a range (`ranges.py`).
"""

import collections.abc
import importlib
import inspect
import math
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt, MinLen

from errors import BadInput, nearest

OURS = ("datamodules", "models", "objectives", "training", "transfer", "reports")
LIBRARIES = ("torch", "timm", "transformers", "lightning")
GROUPS = {
    "datamodules": "datamodule",
    "models": "model",
    "objectives": "objective",
    "training": "optimizer",
}  # on the command line
HYDRAS = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
WORDS = {int: "a whole number", str: "a text", bool: "true or false", type(None): "null"}
RANGES = {  # bounds -> their words
    (Gt,): "above {}",
    (Ge,): "of {} or more",
    (Ge, Le): "from {} to {}",
    (Ge, Lt): "from {} to below {}",
    (Gt, Le): "above {} and at most {}",
    (Gt, Lt): "above {} and below {}",
}


def class_at(target: object) -> type:
    """The class that a `_target_` names.

    Raises:
        BadInput: it is not a class of this project, torch, timm, transformers or lightning.
    """
    allowed = (*OURS, *LIBRARIES)
    root = target.partition(".")[0] if isinstance(target, str) else None
    if root not in allowed:
        raise BadInput(f"_target_ '{target}' is refused: it can name classes of {', '.join(allowed)} only")
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"_target_ '{target}' does not exist: {' '.join(str(error).split())[:160]}") from error
    # what such a module has imported from elsewhere (torch.os, say), and functions that load or run things, are none of it
    if not isinstance(found, type) or found.__module__.partition(".")[0] not in allowed:
        raise BadInput(f"_target_ '{target}' is refused: it is no class of {', '.join(allowed)}")
    return found


def check_node(node: Any, late: Iterable[str] = (), name: str | None = None) -> None:
    """Raise BadInput where a node, or one inside it, names what it may not, or has settings that do not fit.

    Args:
        late: names of arguments that are given besides.
        name: of the node on the command line; by default that of the group that its class belongs to.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise BadInput(f"settings without a _target_ say nothing that could be built: {' '.join(str(node).split())[:120]}")
    root = str(node["_target_"]).partition(".")[0]
    for path, inner in _nodes(node, name or GROUPS.get(root, root)):
        target = class_at(inner["_target_"])
        given = set(late) if inner is node else set()
        _check_settings(path, target, {key: value for key, value in inner.items() if key not in HYDRAS}, given)


def _nodes(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(its full name, node) of a node and of those inside it."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _nodes(value, f"{path}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _nodes(value, f"{path}[{number}]")


def _check_settings(path: str, target: type, settings: dict[str, Any], given: set[str]) -> None:
    parameters = inspect.signature(target).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    ours = target.__module__.partition(".")[0] in OURS  # hints of a library are for type checkers, some wrong
    hints = typing.get_type_hints(target.__init__, include_extras=True) if ours else {}
    for key, value in settings.items():
        if key not in parameters and not takes_any:
            raise BadInput(f"there is no setting '{path}.{key}'; {nearest(key, set(parameters) - given)}")
        usual = parameters[key].default if key in parameters else None
        if not hints and isinstance(usual, tuple) and not isinstance(value, list | tuple):
            raise BadInput(f"{path}.{key} must be a list of {len(usual)} such as {list(usual)}, not {value!r}")
        check_value(f"{path}.{key}", value, hints.get(key, Any))


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raise BadInput where a setting is not what a type hint says; of a group of settings the one that does not fit is named.

    Args:
        name: of the setting on the command line.
        hint: of a group whose keys are known a TypedDict.
    """
    kinds = _choices(hint)
    group = next((kind for kind in kinds if _is_group(kind)), None)
    items = next((typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is list), Any if hint is Any else None)
    if isinstance(value, dict) and "_target_" in value and group is not None:
        return  # a node, which is looked at as such
    if isinstance(value, dict) and group is not None:
        hints = _hints_within(name, value, group)
        for key, part in value.items():
            check_value(f"{name}.{key}", part, hints[key])
    elif isinstance(value, list) and items is not None and (hint is Any or any(isinstance(part, dict) for part in value)):
        for number, part in enumerate(value):
            check_value(f"{name}[{number}]", part, items)
    elif not fits(value, hint):
        raise BadInput(f"{name} must be {_spoken(hint)}, not {value!r}")


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_group(hint: Any) -> bool:
    return hint is Any or dict in (hint, typing.get_origin(hint)) or typing.is_typeddict(hint)


def _hints_within(name: str, settings: dict[str, Any], group: Any) -> dict[str, Any]:
    """Key -> hint of the settings of a group."""
    if not typing.is_typeddict(group):
        inner = typing.get_args(group)
        return dict.fromkeys(settings, inner[1] if inner else Any)
    hints = typing.get_type_hints(group, include_extras=True)
    for key in settings:
        if key not in hints:
            raise BadInput(f"there is no setting '{name}.{key}'; {nearest(key, hints)}")
    for key in sorted(group.__required_keys__):
        if key not in settings:
            raise BadInput(f"{name}.{key} must be given: {_spoken(hints[key])}")
    return hints


def fits(value: Any, hint: Any) -> bool:
    """Whether a value of a configuration file can be what a type hint says; hints of anything but plain data fit all.

    No number is infinite or NaN, whatever the hint says.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if origin is Annotated:
        return fits(value, inner[0]) and all(_holds(bound, value) for bound in _bounds(inner[1:]))
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, choice) for choice in inner)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool, type(None)):
        return isinstance(value, hint)
    if origin is typing.Literal:
        return value in inner
    if origin is tuple or hint is tuple:
        if not isinstance(value, list | tuple):
            return False
        kinds = (inner[0],) * len(value) if inner[1:] == (...,) else inner
        return not inner or (len(kinds) == len(value) and all(map(fits, value, kinds)))
    if origin is list or hint is list:
        return isinstance(value, list | tuple) and all(fits(part, kind) for kind in inner for part in value)
    if origin is collections.abc.Callable:
        return isinstance(value, dict) and "_target_" in value
    if origin is dict or hint is dict:
        return isinstance(value, dict) and all(fits(part, inner[1]) for part in value.values() if inner)
    return not isinstance(value, list | tuple) or all(fits(part, Any) for part in value)


def _bounds(ranges: Iterable[Any]) -> list[Any]:
    return [bound for found in ranges for bound in (found if isinstance(found, GroupedMetadata) else [found])]


def _holds(bound: Any, value: Any) -> bool:
    match bound:
        case Gt(low):
            return value > low
        case Ge(low):
            return value >= low
        case Lt(high):
            return value < high
        case Le(high):
            return value <= high
        case MinLen(least):
            return len(value) >= least
    raise TypeError(f"{bound} is no range of a setting")


def _spoken(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_spoken(choice) for choice in inner))
    if origin is Annotated:
        return _spoken_range(inner[0], _bounds(inner[1:]))
    if origin is typing.Literal:
        return " or ".join(map(str, inner))
    if origin is tuple and (inner[1:] == (...,) or len(set(inner)) == 1):
        return f"a list{'' if inner[1:] == (...,) else f' of {len(inner)}'}, each {_spoken(inner[0])}"
    if origin is tuple:
        return f"a list of {len(inner)} ({', '.join(map(_spoken, inner))})"
    if list in (origin, hint):
        return "a list"
    if dict in (origin, hint) or origin is collections.abc.Callable or typing.is_typeddict(hint):
        return "a group of settings"
    if hint in (float, Any):  # which takes all but what is no finite number
        return "a finite number"
    return WORDS.get(hint, str(getattr(hint, "__name__", hint)))


def _spoken_range(kind: Any, bounds: list[Any]) -> str:
    if isinstance(bounds[0], MinLen):
        return _spoken(kind).replace("a list", f"a list of {bounds[0].min_length} or more", 1)
    numbers = [getattr(bound, type(bound).__name__.lower()) for bound in bounds]
    word = "a number" if kind is float and len(bounds) == 2 else _spoken(kind)
    return f"{word} {RANGES[tuple(map(type, bounds))].format(*numbers)}"
